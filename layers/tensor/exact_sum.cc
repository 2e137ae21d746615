#include "layers/tensor/exact_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/base/error.h"

namespace conclave {
namespace {

constexpr float kLargestTerm = 256.0F;
constexpr double kScale = 0x1p46;
constexpr std::int64_t kLargestSum = std::int64_t{1} << 62;  // leaves room to add two of them

}  // namespace

ExactSum::ExactSum(std::int64_t elements) : integers_(static_cast<std::size_t>(elements) + 1) {}

void ExactSum::clear() { std::ranges::fill(integers_, 0); }

void ExactSum::add(std::span<const float> terms) {
  CONCLAVE_CHECK_EQ(terms.size() + 1, integers_.size(), "terms of an exact sum");
  std::int64_t spoiled = 0;
#pragma omp parallel for reduction(+ : spoiled)
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if (!(std::abs(terms[i]) <= kLargestTerm)) {
      ++spoiled;
      continue;
    }
    integers_[i] += std::llrint(static_cast<double>(terms[i]) * kScale);
    if (std::abs(integers_[i]) > kLargestSum) {
      ++spoiled;
      integers_[i] = 0;
    }
  }
  integers_.back() += spoiled;
}

void ExactSum::round_to(std::span<float> sums) const {
  CONCLAVE_CHECK_EQ(sums.size() + 1, integers_.size(), "results of an exact sum");
  if (integers_.back() != 0) {
    std::ranges::fill(sums, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  std::transform(integers_.begin(), integers_.end() - 1, sums.begin(), [](std::int64_t integer) {
    return static_cast<float>(static_cast<double>(integer) / kScale);
  });
}

}  // namespace conclave
