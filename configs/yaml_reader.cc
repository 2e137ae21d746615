#include "configs/yaml_reader.h"

#include <fmt/format.h>

#include <map>

#include "configs/scalar.h"
#include "configs/suggest.h"

namespace conclave::config {

namespace {

// yaml-cpp tags a quoted scalar "!" and a plain one "?".
Scalar scalar_of(const YAML::Node& node) { return {node.Scalar(), node.Tag() == "!"}; }

std::string wrong_kind(const YAML::Node& value, const Field& field, const std::string& path) {
  return fmt::format("{}: found {}; valid: {}", path, kind_of(value), valid_values(field));
}

std::string no_value(const Field& field, const std::string& path) {
  const std::string value = default_text(field);
  return fmt::format("{}: found no value; valid: {}{}", path, valid_values(field),
                     value.empty() ? "" : fmt::format("; leave the key out for its default, {}", value));
}

void read_list(const YAML::Node& list, const Field& field, Message& message, const std::string& path,
               const Origin& origin, Reading& reading) {
  const auto& reflection = *message.GetReflection();
  reflection.ClearField(&message, &field);
  reading.forget_places_below(path);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const YAML::Node element = list[i];
    const std::string element_path = join(path, std::to_string(i));
    const std::string place = origin.place(element.Mark());
    reading.remember_place(element_path, place);
    if (is_list_of_maps(field)) {
      // Added even if it can't be read, so that the elements after it keep their numbers.
      Message& added = *reflection.AddMessage(&message, &field);
      if (element.IsMap()) {
        read_section(element, added, element_path, origin, reading);
      } else {
        reading.add_error(place, element_path, wrong_kind(element, field, element_path));
      }
    } else if (!element.IsScalar()) {
      reading.add_error(place, element_path, wrong_kind(element, field, element_path));
    } else if (const auto problem = store_scalar(scalar_of(element), field, message)) {
      reading.add_error(place, element_path, fmt::format("{}: {}", element_path, *problem));
    }
  }
}

}  // namespace

std::string Origin::place(const YAML::Mark& mark) const {
  if (!has_positions || mark.is_null()) return name;
  return fmt::format("{}:{}:{}", name, mark.line + 1, mark.column + 1);
}

std::string kind_of(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a map";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return excerpt(node.Scalar());
    default:
      return "no value";
  }
}

void report_unknown_key(const std::string& name, const google::protobuf::Descriptor& section,
                        const std::string& path, const std::string& place, Reading& reading) {
  const std::string full_path = join(path, name);
  const std::string section_path = without_indices(path);
  std::vector<std::string> meant = suggest_keys(section_path, name);
  for (std::string& key : meant) {
    // In an element of a list: data.train.path -> data.train.0.path.
    if (!path.empty() && key.starts_with(section_path + ".")) key.replace(0, section_path.size(), path);
    reading.mark_faulty(key);
  }
  std::string remedy;
  if (meant.size() == 1 && meant.front() == name) {
    const std::size_t dot = name.find('.');  // "moe.top_k: 2" instead of a map in a map
    remedy = fmt::format("write it as {}: {{{}: ...}}", name.substr(0, dot), name.substr(dot + 1));
  } else if (!meant.empty()) {
    remedy = fmt::format("did you mean {}?", one_of(meant));
  } else {
    std::vector<std::string> names;
    for (int i = 0; i < section.field_count(); ++i) names.push_back(section.field(i)->name());
    remedy =
        fmt::format("valid {}: {}", path.empty() ? "at the top level" : "in " + path, fmt::join(names, ", "));
  }
  reading.add_error(place, fmt::format("{}: unknown key; {}", full_path, remedy));
}

void read_section(const YAML::Node& map, Message& message, const std::string& path, const Origin& origin,
                  Reading& reading) {
  const auto& section = *message.GetDescriptor();
  std::map<std::string, std::string> places_seen;
  for (const auto& entry : map) {
    const std::string place = origin.place(entry.first.Mark());
    if (!entry.first.IsScalar()) {
      reading.add_error(place, fmt::format("{}: a key must be a word, found {}",
                                           path.empty() ? "top level" : path, kind_of(entry.first)));
      continue;
    }
    const std::string& name = entry.first.Scalar();
    const std::string key_path = join(path, name);
    if (const auto [seen, is_new] = places_seen.emplace(name, place); !is_new) {
      reading.add_error(
          place, key_path,
          fmt::format("{}: duplicate key, first at {}; keep one of them", key_path, seen->second));
      continue;
    }
    if (path.empty() && name == "base") continue;
    if (const Field* field = section.FindFieldByName(name)) {
      read_value(entry.second, *field, message, key_path, place, origin, reading);
    } else {
      report_unknown_key(name, section, path, place, reading);
    }
  }
}

void read_value(const YAML::Node& value, const Field& field, Message& message, const std::string& path,
                const std::string& key_place, const Origin& origin, Reading& reading) {
  const bool may_be_empty = field.is_repeated() && default_text(field) == "[]";
  const bool is_empty = value.IsNull() || (value.IsSequence() && value.size() == 0 && !may_be_empty);
  if (is_empty) return reading.add_error(key_place, path, no_value(field, path));

  const std::string place = origin.place(value.Mark());
  reading.remember_place(path, is_section(field) ? key_place : place);
  if (is_section(field) && value.IsMap()) {
    read_section(value, *message.GetReflection()->MutableMessage(&message, &field), path, origin, reading);
  } else if (field.is_repeated() && value.IsSequence()) {
    read_list(value, field, message, path, origin, reading);
  } else if (!field.is_repeated() && !is_section(field) && value.IsScalar()) {
    const auto problem = store_scalar(scalar_of(value), field, message);
    if (problem) reading.add_error(place, path, fmt::format("{}: {}", path, *problem));
  } else {
    reading.add_error(place, path, wrong_kind(value, field, path));
  }
}

}  // namespace conclave::config
