// UTF-8, one character after the other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave::data {

struct Character {
  char32_t code = 0;
  std::size_t bytes = 1;
  bool valid = false;  // false: one byte, or the beginning of a character, that is no UTF-8
};

// The character at the beginning of `text`, which isn't empty. What is not valid UTF-8 is cut as the Unicode
// standard recommends (section 3.9, "maximal subparts"), so that each cut is one replacement character.
Character first_character(std::string_view text);

// Appends a character.
void append_utf8(std::string& text, char32_t code);

// Valid UTF-8: every cut as above becomes U+FFFD.
std::string with_replacements(std::string_view text);

}  // namespace conclave::data
