#include "configs/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <type_traits>
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

const Problem kQuoted{"is text in quotes", "remove the quotes"};

template <class T>
std::optional<T> whole_text_as(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_any_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

// Removes what satisfies `belongs` from the front of `text`; how many characters that were.
template <class Predicate>
std::size_t skip(std::string_view& text, Predicate belongs) {
  const auto end = std::find_if_not(text.begin(), text.end(), belongs);
  const auto count = static_cast<std::size_t>(end - text.begin());
  text.remove_prefix(count);
  return count;
}

bool skip_one_of(std::string_view& text, std::string_view letters) {
  const bool found = !text.empty() && letters.find(text.front()) != std::string_view::npos;
  if (found) text.remove_prefix(1);
  return found;
}

// [sign] digits [. digits] [e [sign] digits], with a digit before or after the point.
bool is_decimal(std::string_view text) {
  skip_one_of(text, "+-");
  std::size_t digits = skip(text, is_digit);
  if (skip_one_of(text, ".")) digits += skip(text, is_digit);
  if (digits == 0) return false;
  if (!skip_one_of(text, "eE")) return text.empty();
  skip_one_of(text, "+-");
  return skip(text, is_digit) > 0 && text.empty();
}

bool is_not_finite(std::string_view text) {
  skip_one_of(text, "+-");
  skip_one_of(text, ".");
  return is_any_of(lower_case(std::string(text)), {"nan", "inf", "infinity"});
}

// What keeps a scalar from being a decimal number; nothing if it is one.
std::optional<Problem> check_decimal(const Scalar& scalar, std::string_view what) {
  if (scalar.quoted) return kQuoted;
  if (is_not_finite(scalar.text)) return Problem{"is not finite", ""};
  if (!is_decimal(scalar.text)) return Problem{fmt::format("is not {}", what), ""};

  std::string_view magnitude = scalar.text;
  skip_one_of(magnitude, "+-");
  std::string_view rest = magnitude;
  const std::size_t zeros = skip(rest, [](char c) { return c == '0'; });
  const bool zero_is_needed = rest.empty() || !is_digit(rest.front());  // 0, 0.5
  if (zeros > (zero_is_needed ? 1U : 0U)) {
    const std::string_view sign =
        std::string_view(scalar.text).substr(0, scalar.text.size() - magnitude.size());
    return Problem{"has a leading zero (octal to some readers)",
                   fmt::format("write {}{}{}", sign, zero_is_needed ? "0" : "", excerpt(rest))};
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
  const std::string_view text = scalar.text;
  const char unit = text.empty() ? ' ' : text.back();
  const bool has_unit = text.size() > 1 && is_any_of(text.substr(text.size() - 1), {"s", "m", "h", "d"});
  const std::string number_part(text.substr(0, text.size() - (has_unit ? 1 : 0)));
  if (!has_unit || !is_decimal(number_part)) {
    return Problem{"is not a number with a unit",
                   is_decimal(text) ? fmt::format("write {}s for seconds", text) : ""};
  }
  const auto number = parse_number({number_part, false});
  if (std::holds_alternative<Problem>(number)) return std::get<Problem>(number);
  const double unit_seconds = unit == 's' ? 1 : unit == 'm' ? 60 : unit == 'h' ? 3600 : 86400;
  const double seconds = std::get<double>(number) * unit_seconds;
  if (!std::isfinite(seconds)) return Problem{"is outside the range of double precision", ""};
  return seconds;
}

Parsed<bool> parse_bool(const Scalar& scalar) {
  if (scalar.quoted) return kQuoted;
  if (scalar.text == "true") return true;
  if (scalar.text == "false") return false;
  const std::string word = lower_case(scalar.text);
  const bool means_true = is_any_of(word, {"true", "yes", "on", "1", "y"});
  const bool means_false = is_any_of(word, {"false", "no", "off", "0", "n"});
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
      if (scalar.text.empty() && !(field.has_default_value() && field.default_value_string().empty()))
        return Problem{"is empty", "give a value or leave the key out"};
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
  const bool needs_quotes = scalar.quoted || scalar.text.empty();
  const std::string text = excerpt(scalar.text);
  const std::string found = needs_quotes ? fmt::format("\"{}\"", text) : text;
  return fmt::format("found {}, which {}; valid: {}{}{}", found, problem->reason, valid_values(field),
                     problem->remedy.empty() ? "" : "; ", problem->remedy);
}

}  // namespace conclave::config
