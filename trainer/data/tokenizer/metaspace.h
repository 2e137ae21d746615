// The visible character that SentencePiece writes for a space.
#pragma once

#include <string>
#include <string_view>

namespace conclave::data {

inline constexpr std::string_view kMetaspace = "\u2581";

// Each of them becomes a space.
inline std::string with_spaces(std::string_view token) {
  std::string text;
  while (!token.empty()) {
    const bool is_space = token.starts_with(kMetaspace);
    text += is_space ? ' ' : token.front();
    token.remove_prefix(is_space ? kMetaspace.size() : 1);
  }
  return text;
}

}  // namespace conclave::data
