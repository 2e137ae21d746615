// Sigmoid scores of one token as DeepSeek-V3's paper writes them, for any scalar type (the choice is fixed
// where derivatives are taken), and the group-limited choice.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/support/reference/softmax_top_k.h"

namespace conclave::test {

// The K largest values among those of the `top_groups` groups with the largest sum of their two best; ties to
// the lower index.
inline std::vector<std::int32_t> reference_top_k_of_groups(const std::vector<double>& values,
                                                           std::int64_t top_k, std::int64_t groups,
                                                           std::int64_t top_groups) {
  const std::size_t size = values.size() / static_cast<std::size_t>(groups);
  std::vector<double> group_scores;
  for (std::size_t begin = 0; begin < values.size(); begin += size) {
    std::vector<double> members(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                values.begin() + static_cast<std::ptrdiff_t>(begin + size));
    std::sort(members.begin(), members.end(), std::greater<>());
    group_scores.push_back(size > 1 ? members[0] + members[1] : members[0]);
  }
  const auto best = reference_top_k(group_scores, top_groups);
  std::vector<double> competing(values.size(), -std::numeric_limits<double>::infinity());
  for (const std::int32_t group : best)
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t e = static_cast<std::size_t>(group) * size + i;
      competing[e] = values[e];
    }
  return reference_top_k(competing, top_k);
}

template <class T>
T reference_sigmoid(const T& x) {
  return 1.0 / (1.0 + std::exp(-x));
}

template <class T>
struct ReferenceSigmoidTopK {
  std::vector<T> probabilities;  // [E]: s / sum s
  std::vector<T> weights;        // [K]
  T log_sum_exp;
};

template <class T>
ReferenceSigmoidTopK<T> reference_sigmoid_top_k(const std::vector<T>& logits,
                                                const std::vector<std::int32_t>& chosen, bool normalize,
                                                double scale) {
  T sum = 0;
  T exponentials = 0;
  for (const T& logit : logits) {
    sum += reference_sigmoid(logit);
    exponentials += std::exp(logit);
  }
  ReferenceSigmoidTopK<T> result{{}, {}, std::log(exponentials)};
  for (const T& logit : logits) result.probabilities.push_back(reference_sigmoid(logit) / sum);
  T divisor = normalize ? T(0) : T(1);
  for (const std::int32_t expert : chosen) {
    result.weights.push_back(reference_sigmoid(logits[static_cast<std::size_t>(expert)]));
    if (normalize) divisor += result.weights.back();
  }
  for (T& weight : result.weights) weight = scale * weight / divisor;
  return result;
}

// Bounds on the fp32 operator's error, first order in u = 2^-24, for E logits at most `range` from
// min(0, the largest). 1 / (e^a + e^(a - l)): the argument's rounding (range u), the exponential (4 u, that
// is 2 units in the last place), a sum and a quotient.
struct SigmoidErrors {
  double experts;
  double range;

  // Relative, of a score; of the sum of scores; of a probability or a weight.
  double score() const { return unit() * (range + 6); }
  double sum() const { return score() + unit() * experts; }
  double probability() const { return score() + sum() + 3 * unit(); }
  // Absolute, of ln(sum) - (sum_e score ln score) / sum. mean_log = sum_e p |ln score|; d(x ln x) = (ln x +
  // 1) dx.
  double entropy(double mean_log, double log_sum) const {
    return sum() + 3 * unit() * std::abs(log_sum) + (mean_log + 1) * score() +
           mean_log * (sum() + unit() * (experts + 6));
  }
  static double unit() { return SoftmaxErrors::unit(); }
};

}  // namespace conclave::test
