// How a count of things (experts, sequences, bytes) is dealt to ranks: contiguous,
// sizes differ by at most one.
#pragma once

#include <algorithm>
#include <cstdint>

namespace conclave {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end - begin; }
  bool contains(std::int64_t index) const { return begin <= index && index < end; }
  friend bool operator==(Range, Range) = default;
};

// Part `index` of [0, total) cut into `parts`; the first total % parts parts have one more.
// A part may be empty.
constexpr Range partition(std::int64_t total, std::int64_t parts, std::int64_t index) {
  const std::int64_t quotient = total / parts;
  const std::int64_t remainder = total % parts;
  const std::int64_t begin = index * quotient + std::min(index, remainder);
  return {begin, begin + quotient + (index < remainder ? 1 : 0)};
}

}  // namespace conclave
