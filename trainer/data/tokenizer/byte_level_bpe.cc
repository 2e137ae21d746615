#include "trainer/data/tokenizer/byte_level_bpe.h"

#include <unicode/normalizer2.h>

#include <algorithm>

#include "comm/base/error.h"
#include "trainer/data/tokenizer/byte_level.h"
#include "trainer/data/tokenizer/utf8.h"

namespace conclave::data {
namespace {

bool is_visible_ascii(char c) { return c > ' ' && c < '\x7F'; }

bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<signed char>(c) >= 0; });
}

// Valid UTF-8 in normalisation form C; `scratch` holds it where it isn't the text itself.
std::string_view composed(std::string_view text, std::string& scratch) {
  if (is_ascii(text)) return text;
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(error);
  CONCLAVE_CHECK(U_SUCCESS(error) != 0, "ICU has no normalisation form C: {}", u_errorName(error));
  scratch.clear();
  icu::StringByteSink<std::string> sink(&scratch);
  normalizer->normalizeUTF8(0, {text.data(), static_cast<std::int32_t>(text.size())}, sink, nullptr, error);
  CONCLAVE_CHECK(U_SUCCESS(error) != 0, "ICU can't normalise {} bytes: {}", text.size(), u_errorName(error));
  return scratch;
}

}  // namespace

ByteLevelBpe::ByteLevelBpe(Vocabulary vocabulary, ByteLevelOptions options, const std::string& path)
    : vocabulary_(std::move(vocabulary)), options_(options), merges_(vocabulary_.merges) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string& character = byte_level_character(static_cast<std::uint8_t>(byte));
    const std::int32_t id = vocabulary_.id(character);
    CONCLAVE_CHECK(id >= 0, "{}: the vocabulary of byte-level BPE lacks byte {}, written \"{}\"", path, byte,
                   character);
    byte_ids_[static_cast<std::size_t>(byte)] = id;
  }
  for (std::size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
    const std::string& token = vocabulary_.tokens[id];
    const bool is_text = vocabulary_.is_added(static_cast<std::int32_t>(id));
    token_bytes_.push_back(is_text ? token : bytes_of_byte_level(token).value_or(token));
  }
  for (const AddedToken& token : vocabulary_.added)
    can_be_cut_ = can_be_cut_ && token.text.find('\n') == std::string::npos;
  can_be_cut_ = can_be_cut_ && options_.pattern.has_value();
}

void ByteLevelBpe::encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const {
  std::string replaced;
  if (!is_ascii(text)) text = replaced = with_replacements(text);
  const WordCacheShelf::Loan cache = caches_.take();
  const char* const start = text.data();
  vocabulary_.split(
      text,
      [&](std::string_view segment) {
        encode_segment(segment, begins || segment.data() != start, *cache, ids);
      },
      [&](std::int32_t id) { ids.push_back(id); });
}

void ByteLevelBpe::encode_segment(std::string_view text, bool begins, WordCache& cache,
                                  std::vector<std::int32_t>& ids) const {
  std::string scratch;
  if (options_.nfc) text = composed(text, scratch);
  std::string prefixed;
  if (options_.add_prefix_space && begins && !text.starts_with(' ')) {
    prefixed = " " + std::string(text);
    text = prefixed;
  }
  while (!text.empty()) {
    const std::size_t bytes = options_.pattern ? first_word(text, *options_.pattern) : text.size();
    cache.append(text.substr(0, bytes), ids, [this](std::string_view word) { return word_ids(word); });
    text.remove_prefix(bytes);
  }
}

std::vector<std::int32_t> ByteLevelBpe::word_ids(std::string_view word) const {
  std::vector<std::int32_t> ids;
  if (vocabulary_.ignore_merges) {
    std::string characters;
    for (const char byte : word) characters += byte_level_character(static_cast<std::uint8_t>(byte));
    if (const std::int32_t id = vocabulary_.id(characters); id >= 0) return {id};
  }
  for (const char byte : word) ids.push_back(byte_ids_[static_cast<std::uint8_t>(byte)]);
  merges_.apply(ids);
  return ids;
}

std::string ByteLevelBpe::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes_[checked_id(id, vocab_size())];
  return text;
}

std::size_t ByteLevelBpe::cut(std::string_view text, std::size_t from) const {
  if (!can_be_cut_) return text.size();
  for (std::size_t i = std::max<std::size_t>(from, 2); i < text.size(); ++i) {
    if (text[i - 1] == '\n' && is_visible_ascii(text[i - 2]) && is_visible_ascii(text[i])) return i;
  }
  return text.size();
}

}  // namespace conclave::data
