// How tokens are shown, and what kinds of bytes there are.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

enum class ByteClass : std::uint8_t {
  kLower,
  kUpper,
  kDigit,
  kSpace,
  kNewline,
  kPunctuation,
  kControl,
  kHigh
};

inline constexpr std::array<std::string_view, 8> kByteClassNames = {
    "lower case", "upper case", "digit", "space", "newline", "punctuation", "control", "byte >= 128"};

// The class of a byte by ASCII: space is ' ' and tab, newline is LF and CR, bytes of other scripts are kHigh.
ByteClass byte_class(std::int32_t byte);

// One token for a line of a terminal: printable ASCII as it is, "␣" for a space, "\n", "\t", "\r", "\xc3" for
// other bytes; a token of another tokenizer is its id; "pad" for padding.
std::string token_label(std::int32_t token, bool tokens_are_bytes);

// The tokens for a page, which shows text as it is. Bytes: those of a character of several bytes (valid
// UTF-8) are the character at its first byte and "" at the others; a byte that belongs to none, or that has
// no glyph, is its "\xc3". Other tokenizers: ids. Padding: "pad". Always valid UTF-8.
std::vector<std::string> page_texts(std::span<const std::int32_t> tokens, bool tokens_are_bytes);

}  // namespace conclave
