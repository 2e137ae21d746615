// The JSON Schema of a run (https://json-schema.org/draft-07), derived from run.proto and nothing else.
#include <nlohmann/json.hpp>

#include "configs/keys.h"
#include "configs/show.h"

namespace conclave::config {

namespace {

using Json = nlohmann::ordered_json;

Json section_schema(const google::protobuf::Descriptor& section);

// A limit without a fraction is written as an integer: 64, not 64.0.
Json limit(double value) {
  const auto whole = static_cast<std::int64_t>(value);
  return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

Json number_schema(const char* type, const google::protobuf::FieldOptions& options) {
  Json schema = {{"type", type}};
  if (options.HasExtension(min)) schema["minimum"] = limit(options.GetExtension(min));
  if (options.HasExtension(above)) schema["exclusiveMinimum"] = limit(options.GetExtension(above));
  if (options.HasExtension(max)) schema["maximum"] = limit(options.GetExtension(max));
  if (!options.HasExtension(keyword)) return schema;
  return {{"anyOf", {schema, {{"const", options.GetExtension(keyword).word()}}}}};
}

Json scalar_schema(const Field& field) {
  const auto& options = field.options();
  switch (field.cpp_type()) {
    case Field::CPPTYPE_MESSAGE:
      return section_schema(*field.message_type());
    case Field::CPPTYPE_BOOL:
      return {{"type", "boolean"}};
    case Field::CPPTYPE_STRING:
      return {{"type", "string"},
              {"minLength", field.has_default_value() && field.default_value_string().empty() ? 0 : 1}};
    case Field::CPPTYPE_ENUM: {
      Json words = Json::array();
      for (int i = 0; i < field.enum_type()->value_count(); ++i)
        words.push_back(field.enum_type()->value(i)->name());
      return {{"enum", words}};
    }
    case Field::CPPTYPE_INT64:
      return number_schema("integer", options);
    case Field::CPPTYPE_UINT64:
      return {{"type", "integer"}, {"minimum", 0}};
    default:
      if (options.GetExtension(duration)) {
        return {{"type", "string"}, {"pattern", "^[0-9]+(\\.[0-9]+)?[smhd]$"}};
      }
      return number_schema("number", options);
  }
}

Json field_schema(const Field& field) {
  Json schema = {{"description", field.options().GetExtension(doc)}};
  if (field.is_repeated()) {
    schema["type"] = "array";
    schema["minItems"] = default_text(field) == "[]" ? 0 : 1;
    schema["items"] = scalar_schema(field);
  } else {
    schema.update(scalar_schema(field));
  }
  if (const std::string value = default_text(field); !value.empty()) {
    // Numbers, booleans and lists are JSON as they stand; words are not.
    const Json parsed = Json::parse(value, nullptr, /*allow_exceptions=*/false);
    schema["default"] = parsed.is_discarded() ? Json(value) : parsed;
  }
  return schema;
}

Json section_schema(const google::protobuf::Descriptor& section) {
  Json properties = Json::object();
  for (int i = 0; i < section.field_count(); ++i) {
    properties[section.field(i)->name()] = field_schema(*section.field(i));
  }
  return {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
}

}  // namespace

std::string json_schema() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", "Conclave run"}};
  schema.update(section_schema(*Experiment::descriptor()));
  schema["properties"]["base"] = {
      {"description", "Another YAML file, relative to this one, that is read first."},
      {"type", "string"},
      {"minLength", 1}};
  return schema.dump(2) + "\n";
}

}  // namespace conclave::config
