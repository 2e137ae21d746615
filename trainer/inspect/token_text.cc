#include "trainer/inspect/token_text.h"

#include <fmt/format.h>

namespace conclave {
namespace {

bool is_continuation(std::int32_t byte) { return (byte & 0xC0) == 0x80; }

// Bytes of the character of two to four bytes that starts at tokens[first] (RFC 3629); 0 if none does.
std::size_t character_bytes(std::span<const std::int32_t> tokens, std::size_t first) {
  const std::int32_t lead = tokens[first];
  const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0 || first + length > tokens.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if (!is_continuation(tokens[first + i])) return 0;
  }
  // What the second byte rules out: longer forms than needed, surrogates, beyond U+10FFFF.
  const std::int32_t second = tokens[first + 1];
  const bool refused = (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
                       (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F);
  return refused ? 0 : length;
}

std::string escape(std::int32_t byte) { return fmt::format("\\x{:02x}", byte); }

}  // namespace

ByteClass byte_class(std::int32_t byte) {
  if (byte >= 'a' && byte <= 'z') return ByteClass::kLower;
  if (byte >= 'A' && byte <= 'Z') return ByteClass::kUpper;
  if (byte >= '0' && byte <= '9') return ByteClass::kDigit;
  if (byte == ' ' || byte == '\t') return ByteClass::kSpace;
  if (byte == '\n' || byte == '\r') return ByteClass::kNewline;
  if (byte >= 128) return ByteClass::kHigh;
  return byte > ' ' && byte < 127 ? ByteClass::kPunctuation : ByteClass::kControl;
}

std::string token_label(std::int32_t token, bool tokens_are_bytes) {
  if (token < 0) return "pad";
  if (!tokens_are_bytes) return std::to_string(token);
  if (token == ' ') return "\u2423";
  if (token == '\n') return "\\n";
  if (token == '\t') return "\\t";
  if (token == '\r') return "\\r";
  return token > ' ' && token < 127 ? std::string(1, static_cast<char>(token)) : escape(token);
}

std::vector<std::string> page_texts(std::span<const std::int32_t> tokens, bool tokens_are_bytes) {
  std::vector<std::string> texts;
  texts.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size();) {
    const std::int32_t token = tokens[i];
    const std::size_t bytes = tokens_are_bytes ? character_bytes(tokens, i) : 0;
    if (bytes > 0) {
      std::string character;
      for (std::size_t k = 0; k < bytes; ++k) character += static_cast<char>(tokens[i + k]);
      texts.push_back(std::move(character));
      texts.resize(texts.size() + bytes - 1);
      i += bytes;
      continue;
    }
    const bool has_glyph = (token >= ' ' && token < 127) || token == '\n' || token == '\t';
    texts.push_back(token < 0           ? "pad"
                    : !tokens_are_bytes ? std::to_string(token)
                    : has_glyph         ? std::string(1, static_cast<char>(token))
                                        : escape(token));
    ++i;
  }
  return texts;
}

}  // namespace conclave
