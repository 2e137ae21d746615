// SentencePiece's BPE as tokenizer.json writes it (Mixtral, Llama): spaces become "▁" (U+2581), characters
// that the vocabulary lacks become their bytes (<0xE2>).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/data/tokenizer/vocabulary.h"
#include "trainer/data/tokenizer/word_cache.h"

namespace conclave::data {

struct MetaspaceOptions {
  // Where a "▁" is put before a text.
  enum class Prepend : std::uint8_t {
    kNever,
    kFirst,           // before the whole text, unless it begins with a space
    kAlways,          // before each stretch between added tokens, unless it begins with a space
    kEvenBeforeSpace  // the same, whatever it begins with
  };
  Prepend prepend = Prepend::kNever;
  bool split_at_spaces = false;  // a word begins at every "▁"
  bool byte_fallback = false;
  bool fuse_unknown = false;     // neighbouring unknown characters are one unknown token
  std::int32_t unknown_id = -1;  // -1: unknown characters are left out
};

class MetaspaceBpe : public Tokenizer {
 public:
  MetaspaceBpe(Vocabulary vocabulary, MetaspaceOptions options);

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(vocabulary_.tokens.size()); }
  void encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string token_bytes(std::int32_t id) const override {
    return token_bytes_[checked_id(id, vocab_size())];
  }
  // Before a space that follows a visible ASCII character, if no token reaches across such a place.
  std::size_t cut(std::string_view text, std::size_t from) const override;
  std::int64_t id_of(std::string_view token) const override { return vocabulary_.id_of(token); }

 private:
  bool no_token_crosses_spaces() const;
  std::string spaced(std::string_view segment, bool begins, bool is_first) const;
  std::size_t word_bytes(std::string_view text) const;
  std::vector<std::int32_t> word_ids(std::string_view word) const;
  void append_unknown(std::string_view character, std::vector<std::int32_t>& ids) const;

  Vocabulary vocabulary_;
  MetaspaceOptions options_;
  BytePairMerges merges_;
  std::array<std::int32_t, 256> byte_ids_{};  // of "<0x00>" ...; -1 where there is none
  std::vector<std::string> token_bytes_;      // by id
  bool words_end_at_spaces_ = false;
  bool can_be_cut_ = false;
  mutable WordCacheShelf caches_{make_word_cache};
};

}  // namespace conclave::data
