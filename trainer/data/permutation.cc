#include "trainer/data/permutation.h"

#include <bit>

#include "comm/base/error.h"

namespace conclave::data {

Permutation::Permutation(std::int64_t size, std::uint64_t seed, std::string_view name, std::int64_t epoch)
    : size_(static_cast<std::uint64_t>(size)), random_(seed, name, static_cast<std::uint64_t>(epoch)) {
  CONCLAVE_CHECK(size >= 1, "permutation '{}' of {} elements: at least 1 is needed", name, size);
  const int bits = static_cast<int>(std::bit_width(size_ - 1));
  half_bits_ = bits / 2 + bits % 2;
}

std::int64_t Permutation::operator()(std::int64_t index) const {
  std::uint64_t value = static_cast<std::uint64_t>(index);
  do {
    value = scramble(value);
  } while (value >= size_);
  return static_cast<std::int64_t>(value);
}

std::uint64_t Permutation::scramble(std::uint64_t value) const {
  constexpr std::uint64_t kRounds = 8;  // four make a strong pseudorandom permutation; small halves want more
  const std::uint64_t half_mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_;
  std::uint64_t right = value & half_mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const std::uint64_t mixed = left ^ (random_.bits(round << 32 | right) & half_mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

}  // namespace conclave::data
