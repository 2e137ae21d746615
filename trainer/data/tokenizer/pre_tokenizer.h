// The pre-tokenizers of byte-level BPE: text is cut into words, and no token crosses a cut. Each is a regular
// expression in the files; those that matter are written out here, since a matcher for one pattern is ten
// times as fast as an engine for all.
//
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   qwen    (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
//           \s+(?!\S)|\s+
//   llama3  as qwen, with \p{N}{1,3}
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace conclave::data {

enum class WordPattern : std::uint8_t { kGpt2, kQwen, kLlama3 };

// The pattern that a file's regular expression is; nothing for another one.
std::optional<WordPattern> word_pattern(std::string_view regular_expression);

// Bytes of the first word of `text`, valid UTF-8 and not empty.
std::size_t first_word(std::string_view text, WordPattern pattern);

// True if the character is white space to \s.
bool is_space(char32_t code);

}  // namespace conclave::data
