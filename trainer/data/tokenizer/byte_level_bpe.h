// Byte-level BPE, as of GPT-2, Qwen and Llama 3.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "trainer/data/tokenizer/pre_tokenizer.h"
#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/data/tokenizer/vocabulary.h"
#include "trainer/data/tokenizer/word_cache.h"

namespace conclave::data {

struct ByteLevelOptions {
  std::optional<WordPattern> pattern;  // nothing: a text is one word
  bool nfc = false;                    // composed characters (Unicode normalisation form C) first
  bool add_prefix_space = false;
};

class ByteLevelBpe : public Tokenizer {
 public:
  // Throws Error naming `path` for a vocabulary without all 256 bytes.
  ByteLevelBpe(Vocabulary vocabulary, ByteLevelOptions options, const std::string& path);

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(vocabulary_.tokens.size()); }
  void encode(std::string_view text, bool begins, std::vector<std::int32_t>& ids) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string token_bytes(std::int32_t id) const override {
    return token_bytes_[checked_id(id, vocab_size())];
  }
  // After a line break between two visible ASCII characters: no pattern looks across it.
  std::size_t cut(std::string_view text, std::size_t from) const override;
  std::int64_t id_of(std::string_view token) const override { return vocabulary_.id_of(token); }

 private:
  void encode_segment(std::string_view text, bool begins, WordCache& cache,
                      std::vector<std::int32_t>& ids) const;
  std::vector<std::int32_t> word_ids(std::string_view word) const;

  Vocabulary vocabulary_;
  ByteLevelOptions options_;
  BytePairMerges merges_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<std::string> token_bytes_;  // by id
  bool can_be_cut_ = true;
  mutable WordCacheShelf caches_{make_word_cache};
};

}  // namespace conclave::data
