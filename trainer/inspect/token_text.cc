#include "trainer/inspect/token_text.h"

#include <fmt/format.h>
#include <unicode/uchar.h>

#include "trainer/data/tokenizer/utf8.h"

namespace conclave {
namespace {

std::string escaped(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(byte));
  return text;
}

// Calls `action` with the bytes of each character and what it is.
template <class Action>
void for_each_character(std::string_view bytes, const Action& action) {
  while (!bytes.empty()) {
    const data::Character character = data::first_character(bytes);
    action(bytes.substr(0, character.bytes), character);
    bytes.remove_prefix(character.bytes);
  }
}

std::string character_label(std::string_view bytes, const data::Character& character) {
  if (bytes == " ") return "\u2423";
  if (bytes == "\n") return "\\n";
  if (bytes == "\t") return "\\t";
  if (bytes == "\r") return "\\r";
  const bool is_seen = character.valid && u_isgraph(static_cast<UChar32>(character.code)) != 0;
  return is_seen ? std::string(bytes) : escaped(bytes);
}

std::string character_on_page(std::string_view bytes, const data::Character& character) {
  const bool has_glyph = (character.code >= ' ' && character.code != 127) || bytes == "\n" || bytes == "\t";
  return character.valid && has_glyph ? std::string(bytes) : escaped(bytes);
}

// Bytes of neighbouring tokens, whose characters may span them.
class Stretch {
 public:
  void add(std::string_view bytes, std::size_t token) {
    bytes_ += bytes;
    token_of_byte_.resize(bytes_.size(), token);
  }
  // Each character goes to the token with its first byte, bytes of none each to their own.
  void move_to(std::vector<std::string>& texts) {
    std::size_t at = 0;
    for_each_character(bytes_, [&](std::string_view bytes, const data::Character& character) {
      if (character.valid) {
        texts[token_of_byte_[at]] += character_on_page(bytes, character);
      } else {
        for (std::size_t i = 0; i < bytes.size(); ++i)
          texts[token_of_byte_[at + i]] += escaped(bytes.substr(i, 1));
      }
      at += bytes.size();
    });
    bytes_.clear();
    token_of_byte_.clear();
  }

 private:
  std::string bytes_;
  std::vector<std::size_t> token_of_byte_;
};

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

void look_up_tokens(const data::Tokenizer& tokenizer, RoutingTrace& trace) {
  for (const std::int32_t id : trace.tokens) {
    if (id == kNoToken || id >= tokenizer.vocab_size() || trace.bytes_of_id.contains(id)) continue;
    trace.bytes_of_id[id] = tokenizer.token_bytes(id);
  }
}

bool has_text(const RoutingTrace& trace) { return trace.tokens_are_bytes || !trace.bytes_of_id.empty(); }

std::optional<std::string> bytes_of_token(const RoutingTrace& trace, std::int32_t token) {
  if (token == kNoToken) return std::nullopt;
  if (trace.tokens_are_bytes) return std::string(1, static_cast<char>(token));
  const auto found = trace.bytes_of_id.find(token);
  if (found == trace.bytes_of_id.end() || found->second.empty()) return std::nullopt;
  return found->second;
}

std::string token_label(const RoutingTrace& trace, std::int32_t token) {
  if (token == kNoToken) return "pad";
  const std::optional<std::string> bytes = bytes_of_token(trace, token);
  if (!bytes) return std::to_string(token);
  std::string label;
  for_each_character(*bytes, [&](std::string_view of_character, const data::Character& character) {
    label += character_label(of_character, character);
  });
  return label;
}

std::int64_t terminal_columns(std::string_view text) {
  std::int64_t columns = 0;
  for_each_character(text, [&](std::string_view, const data::Character& character) {
    const auto code = static_cast<UChar32>(character.code);
    const bool joins = (U_GET_GC_MASK(code) & (U_GC_MN_MASK | U_GC_ME_MASK | U_GC_CF_MASK)) != 0;
    const int width = u_getIntPropertyValue(code, UCHAR_EAST_ASIAN_WIDTH);
    columns += joins ? 0 : width == U_EA_WIDE || width == U_EA_FULLWIDTH ? 2 : 1;
  });
  return columns;
}

std::vector<std::string> page_texts(const RoutingTrace& trace, std::int64_t tokens) {
  std::vector<std::string> texts(static_cast<std::size_t>(tokens));
  Stretch stretch;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const bool is_new_source = t > 0 && trace.source_of_token[t] != trace.source_of_token[t - 1];
    const std::optional<std::string> bytes = bytes_of_token(trace, trace.tokens[t]);
    if (is_new_source || !bytes) stretch.move_to(texts);
    if (bytes) {
      stretch.add(*bytes, t);
    } else {
      texts[t] = token_label(trace, trace.tokens[t]);
    }
  }
  stretch.move_to(texts);
  return texts;
}

std::string page_text(std::string_view bytes) {
  std::string text;
  for_each_character(bytes, [&](std::string_view of_character, const data::Character& character) {
    text += character_on_page(of_character, character);
  });
  return text;
}

}  // namespace conclave
