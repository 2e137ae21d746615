#include "configs/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <sstream>

namespace conclave::config {

namespace {

void add_keys(const google::protobuf::Descriptor& section, const std::string& path, std::vector<Key>& keys) {
  for (int i = 0; i < section.field_count(); ++i) {
    const Field* field = section.field(i);
    const std::string field_path = join(path, field->name());
    keys.push_back({field_path, field});
    if (field->message_type() != nullptr) add_keys(*field->message_type(), field_path, keys);
  }
}

bool is_index(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

std::string limits(const google::protobuf::FieldOptions& options) {
  const bool has_max = options.HasExtension(max);
  const std::string highest = number_text(options.GetExtension(max));
  if (options.HasExtension(min)) {
    const std::string lowest = number_text(options.GetExtension(min));
    return has_max ? fmt::format(" from {} to {}", lowest, highest) : fmt::format(" of at least {}", lowest);
  }
  if (options.HasExtension(above)) {
    const std::string bound = number_text(options.GetExtension(above));
    return has_max ? fmt::format(" above {} and at most {}", bound, highest)
                   : fmt::format(" above {}", bound);
  }
  return has_max ? " of at most " + highest : "";
}

std::vector<std::string> field_names(const google::protobuf::Descriptor& section) {
  std::vector<std::string> names;
  for (int i = 0; i < section.field_count(); ++i) names.push_back(section.field(i)->name());
  return names;
}

std::string valid_scalar(const Field& field) {
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return "true or false";
    case Field::CPPTYPE_STRING:
      return "text";
    case Field::CPPTYPE_ENUM: {
      std::vector<std::string> words;
      for (int i = 0; i < field.enum_type()->value_count(); ++i) {
        words.push_back(field.enum_type()->value(i)->name());
      }
      return one_of(words);
    }
    case Field::CPPTYPE_INT64:
      return "an integer" + limits(field.options());
    case Field::CPPTYPE_UINT64:
      return "an integer from 0 to 18446744073709551615";
    default:
      return "a number" + limits(field.options());
  }
}

}  // namespace

std::string join(std::string_view parent, std::string_view name) {
  return parent.empty() ? std::string(name) : fmt::format("{}.{}", parent, name);
}

std::vector<Key> all_keys() {
  std::vector<Key> keys;
  add_keys(*Experiment::descriptor(), "", keys);
  return keys;
}

std::string without_indices(std::string_view path) {
  std::string names;
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('.'));
    if (!is_index(part)) names = join(names, part);
    path.remove_prefix(std::min(path.size(), part.size() + 1));
  }
  return names;
}

const Field* find_key(std::string_view path) {
  const std::string names = without_indices(path);
  for (const Key& key : all_keys()) {
    if (key.path == names) return key.field;
  }
  return nullptr;
}

bool is_section(const Field& field) { return field.message_type() != nullptr && !field.is_repeated(); }
bool is_list_of_maps(const Field& field) { return field.message_type() != nullptr && field.is_repeated(); }

std::string valid_values(const Field& field) {
  if (is_section(field)) {
    return fmt::format("a map with the keys {}", fmt::join(field_names(*field.message_type()), ", "));
  }
  if (is_list_of_maps(field)) {
    return fmt::format("a list of maps {{{}}}", fmt::join(field_names(*field.message_type()), ", "));
  }
  if (field.is_repeated()) return "a list, each element " + valid_scalar(field);
  if (field.options().GetExtension(duration)) return "a duration such as 90s, 30m, 2h or 1d";
  std::string text = valid_scalar(field);
  if (field.options().HasExtension(keyword)) text += ", or " + field.options().GetExtension(keyword).word();
  return text;
}

std::string default_text(const Field& field) {
  const auto& options = field.options();
  if (field.is_repeated()) return options.GetExtension(default_list);
  if (!field.has_default_value()) return "";
  const auto number = [&](double value) {
    const bool is_word = options.HasExtension(keyword) && options.GetExtension(keyword).value() == value;
    if (is_word) return options.GetExtension(keyword).word();
    return options.GetExtension(duration) ? duration_text(value) : number_text(value);
  };
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return field.default_value_bool() ? "true" : "false";
    case Field::CPPTYPE_STRING:
      return field.default_value_string();
    case Field::CPPTYPE_ENUM:
      return field.default_value_enum()->name();
    case Field::CPPTYPE_INT64:
      return number(static_cast<double>(field.default_value_int64()));
    case Field::CPPTYPE_UINT64:
      return std::to_string(field.default_value_uint64());
    default:
      return number(field.default_value_double());
  }
}

std::vector<std::string> aliases(const Field& field) {
  std::istringstream words(field.options().GetExtension(alias));
  std::vector<std::string> names;
  for (std::string word; words >> word;) names.push_back(word);
  return names;
}

std::string excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  return text.size() <= kLongest ? std::string(text) : fmt::format("{}...", text.substr(0, kLongest));
}

std::string one_of(const std::vector<std::string>& words) {
  if (words.empty()) return "";
  std::string text = words.front();
  for (std::size_t i = 1; i < words.size(); ++i) {
    text += (i + 1 == words.size() ? " or " : ", ") + words[i];
  }
  return text;
}

std::string number_text(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  std::string text(digits.data(), end.ptr);
  // "1e-06" and "1e+20" are how C prints exponents; people write 1e-6 and 1e20.
  if (const std::size_t e = text.find('e'); e != std::string::npos) {
    if (text[e + 1] == '+') text.erase(e + 1, 1);
    const std::size_t first_digit = text[e + 1] == '-' ? e + 2 : e + 1;
    while (text[first_digit] == '0' && first_digit + 1 < text.size()) text.erase(first_digit, 1);
  }
  return text;
}

std::string duration_text(double seconds) {
  struct Unit {
    double seconds;
    char letter;
  };
  if (seconds != 0) {
    for (const Unit unit : {Unit{86400, 'd'}, Unit{3600, 'h'}, Unit{60, 'm'}}) {
      if (std::fmod(seconds, unit.seconds) == 0) {
        return number_text(seconds / unit.seconds) + unit.letter;
      }
    }
  }
  return number_text(seconds) + "s";
}

}  // namespace conclave::config
