#include "trainer/data/tokenizer/pre_tokenizer.h"

#include <unicode/uchar.h>

#include <array>

#include "trainer/data/tokenizer/utf8.h"

namespace conclave::data {
namespace {

constexpr std::string_view kQwenExpression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Kind : std::uint8_t { kLetter, kNumber, kSpace, kOther, kEnd };

Kind kind_by_properties(char32_t code) {
  const std::uint32_t category = U_MASK(u_charType(static_cast<UChar32>(code)));
  if (category & U_GC_L_MASK) return Kind::kLetter;
  if (category & U_GC_N_MASK) return Kind::kNumber;
  return u_isUWhiteSpace(static_cast<UChar32>(code)) ? Kind::kSpace : Kind::kOther;
}

// By code for ASCII: most text never asks for properties.
Kind kind_of(char32_t code) {
  static const auto ascii = [] {
    std::array<Kind, 128> kinds{};
    for (char32_t c = 0; c < 128; ++c) kinds[c] = kind_by_properties(c);
    return kinds;
  }();
  return code < 128 ? ascii[code] : kind_by_properties(code);
}

bool is_line_break(char32_t code) { return code == '\r' || code == '\n'; }

// Where the matcher stands: the character at `at` and what it is.
struct Cursor {
  std::string_view text;
  std::size_t at = 0;
  Character character;
  Kind kind = Kind::kEnd;

  explicit Cursor(std::string_view all, std::size_t start = 0) : text(all), at(start) { look(); }
  void look() {
    character = at < text.size() ? first_character(text.substr(at)) : Character{0, 0, false};
    kind = at < text.size() ? kind_of(character.code) : Kind::kEnd;
  }
  Cursor next() const { return Cursor(text, at + character.bytes); }
  void advance() { *this = next(); }
  void skip(Kind skipped) {
    while (kind == skipped) advance();
  }
  bool breaks_line() const { return kind == Kind::kSpace && is_line_break(character.code); }
};

// Bytes of 's, 't, 're, 've, 'm, 'll or 'd at the beginning, 0 if none is there.
std::size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  // The long s is the one other character that folds to one of these letters.
  if (any_case && text.substr(1).starts_with("\u017F")) return 1 + 2;
  const auto letter = [&](std::size_t i) {
    if (i >= text.size()) return '\0';
    const char c = text[i];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = letter(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const char second = letter(2);
  const bool is_pair =
      (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return is_pair ? 3 : 0;
}

// \s+(?!\S)|\s+ from a space on: all of the run but its last character if something follows it, unless that
// is the only one.
std::size_t spaces(Cursor cursor) {
  std::size_t last = cursor.at;
  const std::size_t begin = cursor.at;
  while (cursor.kind == Kind::kSpace) {
    last = cursor.at;
    cursor.advance();
  }
  return cursor.kind == Kind::kEnd || last == begin ? cursor.at : last;
}

// ` ?` before a run of `kind`: the cursor behind the optional space, or none if no such run follows.
std::optional<Cursor> after_optional_space(const Cursor& cursor, Kind kind) {
  if (cursor.kind == kind) return cursor;
  if (cursor.kind != Kind::kSpace || cursor.character.code != ' ') return std::nullopt;
  const Cursor next = cursor.next();
  if (next.kind != kind) return std::nullopt;
  return next;
}

std::size_t gpt2_word(std::string_view text) {
  if (const std::size_t bytes = contraction(text, false); bytes > 0) return bytes;
  const Cursor begin(text);
  for (const Kind kind : {Kind::kLetter, Kind::kNumber, Kind::kOther}) {
    if (auto run = after_optional_space(begin, kind)) {
      run->skip(kind);
      return run->at;
    }
  }
  return spaces(begin);
}

std::size_t qwen_word(std::string_view text, int digits) {
  if (const std::size_t bytes = contraction(text, true); bytes > 0) return bytes;
  const Cursor begin(text);
  // [^\r\n\p{L}\p{N}]?\p{L}+
  const bool may_lead = begin.kind != Kind::kNumber && begin.kind != Kind::kLetter && !begin.breaks_line();
  Cursor letters = may_lead ? begin.next() : begin;
  if (letters.kind == Kind::kLetter) {
    letters.skip(Kind::kLetter);
    return letters.at;
  }
  if (begin.kind == Kind::kNumber) {
    Cursor number = begin;
    for (int i = 0; i < digits && number.kind == Kind::kNumber; ++i) number.advance();
    return number.at;
  }
  if (auto other = after_optional_space(begin, Kind::kOther)) {
    other->skip(Kind::kOther);
    while (other->breaks_line()) other->advance();
    return other->at;
  }
  // \s*[\r\n]+: up to the last line break of the run.
  std::size_t after_break = 0;
  for (Cursor run = begin; run.kind == Kind::kSpace; run.advance()) {
    if (run.breaks_line()) after_break = run.next().at;
  }
  return after_break > 0 ? after_break : spaces(begin);
}

}  // namespace

std::optional<WordPattern> word_pattern(std::string_view regular_expression) {
  if (regular_expression == kGpt2Expression) return WordPattern::kGpt2;
  if (regular_expression == kQwenExpression) return WordPattern::kQwen;
  if (regular_expression == kLlama3Expression) return WordPattern::kLlama3;
  return std::nullopt;
}

std::size_t first_word(std::string_view text, WordPattern pattern) {
  switch (pattern) {
    case WordPattern::kGpt2:
      return gpt2_word(text);
    case WordPattern::kQwen:
      return qwen_word(text, 1);
    case WordPattern::kLlama3:
      return qwen_word(text, 3);
  }
  return text.size();
}

bool is_space(char32_t code) { return kind_of(code) == Kind::kSpace; }

}  // namespace conclave::data
