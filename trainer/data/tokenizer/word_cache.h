// The ids of words that were seen before: in ordinary text nearly all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "trainer/data/tokenizer/shelf.h"

namespace conclave::data {

// Found by parts of a text, without a copy.
struct WordHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
};
using IdsOfWords = std::unordered_map<std::string, std::vector<std::int32_t>, WordHash, std::equal_to<>>;

class WordCache {
 public:
  // Appends the ids of `word`, which `encode` computes where they aren't known.
  template <class Encode>
  void append(std::string_view word, std::vector<std::int32_t>& ids, const Encode& encode) {
    if (word.size() > kLongestWord) {
      const std::vector<std::int32_t> computed = encode(word);
      ids.insert(ids.end(), computed.begin(), computed.end());
      return;
    }
    auto found = words_.find(word);
    if (found == words_.end()) {
      if (words_.size() >= kMostWords) words_.clear();
      found = words_.emplace(std::string(word), encode(word)).first;
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

 private:
  static constexpr std::size_t kMostWords = 100'000;
  static constexpr std::size_t kLongestWord = 64;  // bytes

  IdsOfWords words_;
};

using WordCacheShelf = Shelf<WordCache>;
// An empty one, made as needed.
inline std::unique_ptr<WordCache> make_word_cache() { return std::make_unique<WordCache>(); }

}  // namespace conclave::data
