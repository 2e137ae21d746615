// Bytes as visible characters: how byte-level BPE (Radford et al., "Language Models are Unsupervised
// Multitask Learners", 2019) writes tokens that are no valid UTF-8 into vocabularies of text. The 188
// printable characters of Latin-1 stand for themselves, the other bytes, in order, for U+0100 and what
// follows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace conclave::data {

// The character of a byte, as UTF-8.
const std::string& byte_level_character(std::uint8_t byte);

// The bytes of a token that is written in such characters; nothing if it has others.
std::optional<std::string> bytes_of_byte_level(std::string_view token);

}  // namespace conclave::data
