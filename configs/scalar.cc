#include "configs/scalar.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <regex>
#include <variant>

#include "configs/suggest.h"

namespace conclave::config {

namespace {

// A rejected scalar: why it is no value of the field, and what to write instead if that is known.
struct Problem {
  std::string reason;
  std::string remedy;
};
template <class T>
using Parsed = std::variant<T, Problem>;

// Longer text is no number; std::regex would recurse once a letter to find that out.
constexpr std::size_t kLongestNumber = 64;

const Problem kQuoted{"is text in quotes", "remove the quotes"};

template <class T>
std::optional<T> whole_text_as(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The digits of a decimal number, checked but not yet converted.
std::optional<Problem> check_decimal(const Scalar& scalar, std::string_view what) {
  if (scalar.quoted) return kQuoted;
  if (scalar.text.size() > kLongestNumber) return Problem{fmt::format("is not {}", what), ""};
  static const std::regex not_finite(R"([-+]?\.?(nan|inf|infinity))", std::regex::icase);
  static const std::regex decimal(R"([-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)");
  static const std::regex leading_zero(R"(([-+]?)0+([0-9].*))");
  if (std::regex_match(scalar.text, not_finite)) return Problem{"is not finite", ""};
  if (!std::regex_match(scalar.text, decimal)) return Problem{fmt::format("is not {}", what), ""};
  if (std::smatch parts; std::regex_match(scalar.text, parts, leading_zero)) {
    return Problem{"has a leading zero (octal to some readers)",
                   fmt::format("write {}{}", parts[1].str(), parts[2].str())};
  }
  return std::nullopt;
}

Parsed<double> parse_number(const Scalar& scalar) {
  if (auto problem = check_decimal(scalar, "a number")) return *problem;
  const auto value = whole_text_as<double>(scalar.text);
  if (!value) return Problem{"is outside the range of double precision", ""};
  return *value;
}

template <class Integer>
Parsed<Integer> parse_integer(const Scalar& scalar) {
  if (auto problem = check_decimal(scalar, "an integer")) return *problem;
  if (const auto value = whole_text_as<Integer>(scalar.text)) return *value;
  // 1e3, 4.0: whole numbers up to 2^53 are exact in double precision.
  constexpr double kLargestExact = 9007199254740992.0;
  const auto number = whole_text_as<double>(scalar.text);
  if (!number || std::abs(*number) > kLargestExact) return Problem{"is too large", ""};
  if (std::trunc(*number) != *number) return Problem{"is not a whole number", ""};
  if (std::is_unsigned_v<Integer> && *number < 0) return Problem{"is negative", ""};
  return static_cast<Integer>(*number);
}

Parsed<double> parse_duration(const Scalar& scalar) {
  static const std::regex pattern(R"((.*[0-9.])([smhd]))");
  std::smatch parts;
  if (scalar.text.size() > kLongestNumber || !std::regex_match(scalar.text, parts, pattern)) {
    const bool bare_number = !check_decimal({scalar.text, false}, "a number");
    return Problem{"is not a number with a unit",
                   bare_number ? fmt::format("write {}s for seconds", scalar.text) : ""};
  }
  const auto number = parse_number({parts[1].str(), false});
  if (std::holds_alternative<Problem>(number)) return std::get<Problem>(number);
  const char unit = parts[2].str().front();
  const double unit_seconds = unit == 's' ? 1 : unit == 'm' ? 60 : unit == 'h' ? 3600 : 86400;
  const double seconds = std::get<double>(number) * unit_seconds;
  if (!std::isfinite(seconds)) return Problem{"is outside the range of double precision", ""};
  return seconds;
}

Parsed<bool> parse_bool(const Scalar& scalar) {
  if (scalar.quoted) return kQuoted;
  if (scalar.text == "true") return true;
  if (scalar.text == "false") return false;
  static const std::regex yes("true|yes|on|1|y", std::regex::icase);
  static const std::regex no("false|no|off|0|n", std::regex::icase);
  const bool means_true = std::regex_match(scalar.text, yes);
  const bool means_false = std::regex_match(scalar.text, no);
  return Problem{"is neither", means_true ? "write true" : means_false ? "write false" : ""};
}

Parsed<const google::protobuf::EnumValueDescriptor*> parse_enum(const Scalar& scalar, const Field& field) {
  const auto* value = field.enum_type()->FindValueByName(scalar.text);
  if (value != nullptr) return value;
  std::vector<std::string> words;
  for (int i = 0; i < field.enum_type()->value_count(); ++i)
    words.push_back(field.enum_type()->value(i)->name());
  const auto near = nearest(scalar.text, words);
  return Problem{"is not one of them", near ? fmt::format("did you mean {}?", *near) : ""};
}

std::optional<Problem> check_limits(double value, const Field& field) {
  const auto& options = field.options();
  const bool outside = (options.HasExtension(min) && value < options.GetExtension(min)) ||
                       (options.HasExtension(above) && value <= options.GetExtension(above)) ||
                       (options.HasExtension(max) && value > options.GetExtension(max));
  if (!outside) return std::nullopt;
  const bool means_keyword = options.HasExtension(keyword) && options.GetExtension(keyword).value() == value;
  return Problem{"is out of range",
                 means_keyword ? fmt::format("write {}", options.GetExtension(keyword).word()) : ""};
}

// Sets a single field, appends to a list: the setters of protobuf's reflection have one pair of names a type.
template <class T>
void set_or_add(Message& message, const Field& field, T value) {
  const auto& reflection = *message.GetReflection();
  const bool list = field.is_repeated();
  if constexpr (std::is_same_v<T, double>) {
    list ? reflection.AddDouble(&message, &field, value) : reflection.SetDouble(&message, &field, value);
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    list ? reflection.AddInt64(&message, &field, value) : reflection.SetInt64(&message, &field, value);
  } else if constexpr (std::is_same_v<T, std::uint64_t>) {
    list ? reflection.AddUInt64(&message, &field, value) : reflection.SetUInt64(&message, &field, value);
  } else if constexpr (std::is_same_v<T, bool>) {
    list ? reflection.AddBool(&message, &field, value) : reflection.SetBool(&message, &field, value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    list ? reflection.AddString(&message, &field, value) : reflection.SetString(&message, &field, value);
  } else {
    list ? reflection.AddEnum(&message, &field, value) : reflection.SetEnum(&message, &field, value);
  }
}

template <class T>
std::optional<Problem> store(const Parsed<T>& parsed, const Field& field, Message& message) {
  if (std::holds_alternative<Problem>(parsed)) return std::get<Problem>(parsed);
  const T value = std::get<T>(parsed);
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    if (auto problem = check_limits(static_cast<double>(value), field)) return problem;
  }
  set_or_add(message, field, value);
  return std::nullopt;
}

std::optional<Problem> store_keyword_or_number(const Scalar& scalar, const Field& field, Message& message) {
  const auto& options = field.options();
  const bool is_integer = field.cpp_type() == Field::CPPTYPE_INT64;
  if (options.HasExtension(keyword)) {
    const Keyword& word = options.GetExtension(keyword);
    if (scalar.text == word.word()) {
      if (is_integer) {
        set_or_add(message, field, static_cast<std::int64_t>(word.value()));
      } else {
        set_or_add(message, field, word.value());
      }
      return std::nullopt;
    }
    const bool near_miss = nearest(scalar.text, {word.word()}).has_value();
    if (near_miss && check_decimal(scalar, "")) {
      return Problem{"is no number", fmt::format("did you mean {}?", word.word())};
    }
  }
  if (is_integer) return store(parse_integer<std::int64_t>(scalar), field, message);
  if (options.GetExtension(duration)) return store(parse_duration(scalar), field, message);
  return store(parse_number(scalar), field, message);
}

std::optional<Problem> store_typed(const Scalar& scalar, const Field& field, Message& message) {
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return store(parse_bool(scalar), field, message);
    case Field::CPPTYPE_STRING:
      if (scalar.text.empty()) return Problem{"is empty", "give a value or leave the key out"};
      set_or_add(message, field, scalar.text);
      return std::nullopt;
    case Field::CPPTYPE_ENUM:
      return store(parse_enum(scalar, field), field, message);
    case Field::CPPTYPE_UINT64:
      return store(parse_integer<std::uint64_t>(scalar), field, message);
    default:
      return store_keyword_or_number(scalar, field, message);
  }
}

}  // namespace

std::optional<std::string> store_scalar(const Scalar& scalar, const Field& field, Message& message) {
  const std::optional<Problem> problem = store_typed(scalar, field, message);
  if (!problem) return std::nullopt;
  const std::string found =
      scalar.quoted || scalar.text.empty() ? fmt::format("\"{}\"", scalar.text) : scalar.text;
  return fmt::format("found {}, which {}; valid: {}{}{}", found, problem->reason, valid_values(field),
                     problem->remedy.empty() ? "" : "; ", problem->remedy);
}

}  // namespace conclave::config
