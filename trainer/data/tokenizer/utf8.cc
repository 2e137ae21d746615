#include "trainer/data/tokenizer/utf8.h"

namespace conclave::data {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// The bytes of a character by its first byte, and the range of its second: table 3-7 of the Unicode standard.
struct Form {
  std::size_t bytes = 0;  // 0: begins no character
  std::uint8_t second_low = 0x80;
  std::uint8_t second_high = 0xBF;
};

Form form_of(std::uint8_t first) {
  if (first < 0x80) return {1};
  if (first >= 0xC2 && first <= 0xDF) return {2};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first >= 0xE1 && first <= 0xEF) return {3};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first >= 0xF1 && first <= 0xF3) return {4};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

}  // namespace

Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const Form form = form_of(byte(0));
  if (form.bytes == 0) return {.code = kReplacement};
  if (form.bytes == 1) return {byte(0), 1, true};
  char32_t code = byte(0) & (0x7FU >> form.bytes);
  for (std::size_t i = 1; i < form.bytes; ++i) {
    const std::uint8_t low = i == 1 ? form.second_low : 0x80;
    const std::uint8_t high = i == 1 ? form.second_high : 0xBF;
    if (i >= text.size() || byte(i) < low || byte(i) > high) return {kReplacement, i, false};
    code = code << 6 | (byte(i) & 0x3FU);
  }
  return {code, form.bytes, true};
}

void append_utf8(std::string& text, char32_t code) {
  const auto add = [&](char32_t value) { text.push_back(static_cast<char>(value)); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

std::string with_replacements(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    if (character.valid) {
      result += text.substr(0, character.bytes);
    } else {
      append_utf8(result, kReplacement);
    }
    text.remove_prefix(character.bytes);
  }
  return result;
}

}  // namespace conclave::data
