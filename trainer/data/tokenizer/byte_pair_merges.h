// Byte-pair encoding (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016):
// of all neighbours in a word, the pair whose merge was learnt first becomes one token, until none is left.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace conclave::data {

class BytePairMerges {
 public:
  struct Merge {
    std::int32_t left = 0;
    std::int32_t right = 0;
    std::int32_t merged = 0;  // the token that the two become
  };

  // In the order in which they were learnt. A pair that stands there twice keeps its later place.
  explicit BytePairMerges(const std::vector<Merge>& merges);

  // Merges the symbols of one word as far as possible; among equals the leftmost first. n log n in the
  // length.
  void apply(std::vector<std::int32_t>& symbols) const;

 private:
  struct Slot {
    std::uint64_t pair = kEmpty;
    std::int32_t rank = 0;
    std::int32_t merged = 0;
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  const Slot* find(std::int32_t left, std::int32_t right) const;
  std::size_t first_slot(std::uint64_t pair) const;

  std::vector<Slot> slots_;  // a power of two, at most half full; collisions go to the next slot
};

}  // namespace conclave::data
