#include "trainer/data/tokenizer/metaspace_bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "trainer/data/tokenizer/metaspace.h"
#include "trainer/data/tokenizer/utf8.h"

namespace conclave::data {
namespace {

bool is_visible_ascii(char c) { return c > ' ' && c < '\x7F'; }

}  // namespace

MetaspaceBpe::MetaspaceBpe(Vocabulary vocabulary, MetaspaceOptions options)
    : vocabulary_(std::move(vocabulary)), options_(options), merges_(vocabulary_.merges) {
  for (const std::string& token : vocabulary_.tokens) token_bytes_.push_back(with_spaces(token));
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = vocabulary_.id(fmt::format("<0x{:02X}>", byte));
    if (byte_ids_[byte] >= 0)
      token_bytes_[static_cast<std::size_t>(byte_ids_[byte])] = std::string(1, static_cast<char>(byte));
  }
  words_end_at_spaces_ = options_.split_at_spaces || no_token_crosses_spaces();
  can_be_cut_ = words_end_at_spaces_ && std::ranges::none_of(vocabulary_.added, [](const AddedToken& token) {
                  return token.text.find(' ') != std::string::npos;
                });
}

// No merge joins what ends in another character with what begins with a space.
bool MetaspaceBpe::no_token_crosses_spaces() const {
  return std::ranges::none_of(vocabulary_.merges, [&](const BytePairMerges::Merge& merge) {
    return !vocabulary_.tokens[static_cast<std::size_t>(merge.left)].ends_with(kMetaspace) &&
           vocabulary_.tokens[static_cast<std::size_t>(merge.right)].starts_with(kMetaspace);
  });
}

void MetaspaceBpe::encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const {
  const std::string valid = with_replacements(text);
  const WordCacheShelf::Loan cache = caches_.take();
  const auto encode_segment = [&](std::string_view segment) {
    const bool is_first = segment.data() == valid.data();
    const std::string all = spaced(segment, begins, is_first);
    std::string_view rest = all;
    while (!rest.empty()) {
      const std::size_t bytes = words_end_at_spaces_ ? word_bytes(rest) : rest.size();
      (*cache).append(rest.substr(0, bytes), ids, [this](std::string_view word) { return word_ids(word); });
      rest.remove_prefix(bytes);
    }
  };
  vocabulary_.split(valid, encode_segment, [&](std::int32_t id) { ids.push_back(id); });
}

std::string MetaspaceBpe::spaced(std::string_view segment, bool begins, bool is_first) const {
  using Prepend = MetaspaceOptions::Prepend;
  const bool has_space = segment.starts_with(' ') || segment.starts_with(kMetaspace);
  bool prepends = begins || !is_first;
  if (options_.prepend == Prepend::kNever) prepends = false;
  if (options_.prepend == Prepend::kFirst) prepends = prepends && is_first && !has_space;
  if (options_.prepend == Prepend::kAlways) prepends = prepends && !has_space;
  std::string text(prepends ? kMetaspace : "");
  for (const char c : segment) {
    if (c == ' ') {
      text += kMetaspace;
    } else {
      text += c;
    }
  }
  return text;
}

// Up to the next "▁" that follows something else, or to the next of all with split_at_spaces.
std::size_t MetaspaceBpe::word_bytes(std::string_view text) const {
  std::size_t at = 0;
  if (!options_.split_at_spaces) {
    while (text.substr(at).starts_with(kMetaspace)) at += kMetaspace.size();
  } else if (text.starts_with(kMetaspace)) {
    at = kMetaspace.size();
  }
  return std::min(text.find(kMetaspace, at), text.size());
}

std::vector<std::int32_t> MetaspaceBpe::word_ids(std::string_view word) const {
  if (vocabulary_.ignore_merges) {
    if (const std::int32_t id = vocabulary_.id(std::string(word)); id >= 0) return {id};
  }
  std::vector<std::int32_t> ids;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, first_character(word).bytes);
    const std::int32_t id = vocabulary_.id(std::string(character));
    if (id >= 0) {
      ids.push_back(id);
    } else {
      append_unknown(character, ids);
    }
    word.remove_prefix(character.size());
  }
  merges_.apply(ids);
  return ids;
}

void MetaspaceBpe::append_unknown(std::string_view character, std::vector<std::int32_t>& ids) const {
  const auto id_of_byte = [&](char byte) { return byte_ids_[static_cast<std::uint8_t>(byte)]; };
  const bool has_bytes = std::ranges::all_of(character, [&](char byte) { return id_of_byte(byte) >= 0; });
  if (options_.byte_fallback && has_bytes) {
    for (const char byte : character) ids.push_back(id_of_byte(byte));
  } else if (options_.unknown_id >= 0) {
    const bool is_fused = options_.fuse_unknown && !ids.empty() && ids.back() == options_.unknown_id;
    if (!is_fused) ids.push_back(options_.unknown_id);
  }
}

// The space that encoding put before a text is taken off again.
std::string MetaspaceBpe::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes_[checked_id(id, vocab_size())];
  const bool prepended = options_.prepend != MetaspaceOptions::Prepend::kNever;
  return prepended && text.starts_with(' ') ? text.substr(1) : text;
}

std::size_t MetaspaceBpe::cut(std::string_view text, std::size_t from) const {
  if (!can_be_cut_) return text.size();
  for (std::size_t i = std::max<std::size_t>(from, 1); i < text.size(); ++i) {
    const std::string_view before = text.substr(0, i);
    // Behind an added token a stretch begins anew.
    const auto ends_before = [&](const AddedToken& token) { return before.ends_with(token.text); };
    if (text[i] == ' ' && is_visible_ascii(text[i - 1]) &&
        std::ranges::none_of(vocabulary_.added, ends_before))
      return i;
  }
  return text.size();
}

}  // namespace conclave::data
