#include "configs/value_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <string_view>
#include <vector>

namespace conclave::config {

namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// True where every reader of YAML 1.1 and 1.2 sees text, and nothing but text.
bool is_plain(const std::string& text) {
  if (text.empty() || !(is_letter(text.front()) || text.front() == '/')) return false;
  const auto is_safe = [](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') ||
           std::string_view("_./+-").find(c) != std::string_view::npos;
  };
  if (!std::all_of(text.begin(), text.end(), is_safe)) return false;
  std::string word = text;
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
  static constexpr std::array<std::string_view, 9> kReserved = {"null", "true", "false", "yes", "no",
                                                                "on",   "off",  "y",     "n"};
  return std::find(kReserved.begin(), kReserved.end(), word) == kReserved.end();
}

std::string quoted_if_needed(const std::string& text) {
  if (is_plain(text)) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string double_text(double value, const Field& field) {
  const auto& options = field.options();
  if (options.HasExtension(keyword) && options.GetExtension(keyword).value() == value) {
    return options.GetExtension(keyword).word();
  }
  return options.GetExtension(duration) ? duration_text(value) : number_text(value);
}

std::string integer_text(std::int64_t value, const Field& field) {
  const auto& options = field.options();
  const bool is_word =
      options.HasExtension(keyword) && options.GetExtension(keyword).value() == static_cast<double>(value);
  return is_word ? options.GetExtension(keyword).word() : std::to_string(value);
}

std::string list_text(const Message& message, const Field& field) {
  const auto& reflection = *message.GetReflection();
  const int size = reflection.FieldSize(message, &field);
  if (size == 0) return default_text(field);
  std::vector<std::string> elements;
  for (int i = 0; i < size; ++i) {
    switch (field.cpp_type()) {
      case Field::CPPTYPE_STRING:
        elements.push_back(quoted_if_needed(reflection.GetRepeatedString(message, &field, i)));
        break;
      case Field::CPPTYPE_INT64:
        elements.push_back(integer_text(reflection.GetRepeatedInt64(message, &field, i), field));
        break;
      default:
        elements.push_back(double_text(reflection.GetRepeatedDouble(message, &field, i), field));
    }
  }
  return fmt::format("[{}]", fmt::join(elements, ", "));
}

}  // namespace

std::string value_text(const Message& message, const Field& field) {
  if (field.is_repeated()) return list_text(message, field);
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    case Field::CPPTYPE_STRING:
      return quoted_if_needed(reflection.GetString(message, &field));
    case Field::CPPTYPE_ENUM:
      return reflection.GetEnum(message, &field)->name();
    case Field::CPPTYPE_INT64:
      return integer_text(reflection.GetInt64(message, &field), field);
    case Field::CPPTYPE_UINT64:
      return std::to_string(reflection.GetUInt64(message, &field));
    default:
      return double_text(reflection.GetDouble(message, &field), field);
  }
}

}  // namespace conclave::config
