// How tokens are shown, and what kinds of bytes there are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/inspect/routing_trace.h"

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

// Fills trace.bytes_of_id for the ids of trace.tokens. Those that the tokenizer doesn't have are left out.
void look_up_tokens(const data::Tokenizer& tokenizer, RoutingTrace& trace);

// True if tokens of this trace are shown as text, not as numbers.
bool has_text(const RoutingTrace& trace);

// The bytes that a token stands for; nothing for padding and where they aren't known.
std::optional<std::string> bytes_of_token(const RoutingTrace& trace, std::int32_t token);

// One token for a line of a terminal: characters that can be seen as they are, "␣" for a space, "\n", "\t",
// "\r", "\xc3" for other bytes; a token of which no text is known is its id; "pad" for padding.
std::string token_label(const RoutingTrace& trace, std::int32_t token);

// Columns that valid UTF-8 takes on a terminal: two for wide characters, none for marks that join the one
// before.
std::int64_t terminal_columns(std::string_view text);

// The first `tokens` tokens for a page, which shows text as it is. A character that spans tokens stands whole
// at the one with its first byte; a token that only goes on with it is "". A byte that belongs to no
// character, or that has no glyph, is its "\xc3"; a token of which no text is known is its id; padding is
// "pad". Always valid UTF-8.
std::vector<std::string> page_texts(const RoutingTrace& trace, std::int64_t tokens);
// The same of text, whole.
std::string page_text(std::string_view bytes);

}  // namespace conclave
