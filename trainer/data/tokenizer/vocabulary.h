// What every tokenizer.json has: tokens and their ids, merges, and added tokens, which are found in a text
// before anything else is done with it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "trainer/data/tokenizer/byte_pair_merges.h"

namespace conclave::data {

struct AddedToken {
  std::string text;
  std::int32_t id = 0;
};

struct Vocabulary {
  std::unordered_map<std::string, std::int32_t> ids;  // without the added tokens that only stand there
  std::vector<std::string> tokens;                    // by id; "" where there is none
  std::vector<BytePairMerges::Merge> merges;
  std::vector<AddedToken> added;
  bool ignore_merges = false;  // a word that is a token is that token, whatever merges would make of it

  // -1 if there is no such token.
  std::int32_t id(const std::string& token) const {
    const auto found = ids.find(token);
    return found == ids.end() ? -1 : found->second;
  }
  bool is_added(std::int32_t id) const;
  std::int64_t id_of(std::string_view token) const;

  // Cuts the text at added tokens, of two that begin at one place at the longer one, and calls `segment` with
  // each stretch between (which may be empty only if the text is) and `added` with each token's id.
  void split(std::string_view text, const std::function<void(std::string_view)>& segment,
             const std::function<void(std::int32_t)>& added) const;
};

}  // namespace conclave::data
