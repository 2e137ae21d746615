// Sums of floats that do not depend on the order of their terms: what run.determinism: cross_layout adds
// gradients with, so that every layout of the ranks gets the same bits.
//
// Each term is rounded once to a multiple of 2^-46 (1.4e-14) and added as a 64-bit integer; integers add
// exactly in any order. Terms must stay within +-256, and sums within +-2^17: gradients of a mean loss are
// far below. One that doesn't, or isn't finite, spoils the whole sum, which then is NaN: a step that is
// skipped, never a wrong one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave {

class ExactSum {
 public:
  // `elements` sums, all 0.
  explicit ExactSum(std::int64_t elements);

  void clear();
  // Adds terms[i] to sum i; terms.size() == elements.
  void add(std::span<const float> terms);
  // The sums, rounded to float once; all NaN if a term spoiled them.
  void round_to(std::span<float> sums) const;

  // The integers, to be added up over ranks element by element: [elements + 1], the last counts spoiled
  // terms.
  std::span<std::int64_t> integers() { return integers_; }

 private:
  std::vector<std::int64_t> integers_;
};

}  // namespace conclave
