// A shuffled order of [0, size) in constant memory: a keyed bijection, computed one index at a time.
// Feistel network (Luby and Rackoff, 1988) with Philox as its round function, over the smallest even number
// of bits that holds `size`; results outside [0, size) are sent through again (cycle walking: Black and
// Rogaway, "Ciphers with arbitrary finite domains", 2002), fewer than four times on average.
#pragma once

#include <cstdint>
#include <string_view>

#include "layers/tensor/philox.h"

namespace conclave::data {

class Permutation {
 public:
  // A pure function of (size, seed, name, epoch): each epoch has its own order. size >= 1.
  Permutation(std::int64_t size, std::uint64_t seed, std::string_view name, std::int64_t epoch);

  // Where `index` of [0, size) goes: in [0, size), and no two indices go to the same place.
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t scramble(std::uint64_t value) const;

  std::uint64_t size_;
  int half_bits_;  // the network permutes [0, 2^(2 half_bits))
  RandomStream random_;
};

}  // namespace conclave::data
