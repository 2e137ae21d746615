// Softmax top-K of one token as the papers write it, for any scalar type: with std::complex<double> the
// choice is fixed and the rest analytic, so that the complex step gives its derivatives.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace conclave::test {

// The K largest in descending order, ties to the lower index.
inline std::vector<std::int32_t> reference_top_k(const std::vector<double>& values, std::int64_t top_k) {
  std::vector<std::int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(top_k));
  return order;
}

template <class T>
struct ReferenceSoftmaxTopK {
  std::vector<T> probabilities;  // [E]
  std::vector<T> weights;        // [K]
  T log_sum_exp;
};

template <class T>
ReferenceSoftmaxTopK<T> reference_softmax_top_k(const std::vector<T>& logits,
                                                const std::vector<std::int32_t>& chosen, bool normalize) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const T& logit : logits) largest = std::max(largest, std::real(logit));
  T sum = 0;
  for (const T& logit : logits) sum += std::exp(logit - largest);

  ReferenceSoftmaxTopK<T> result{{}, {}, largest + std::log(sum)};
  for (const T& logit : logits) result.probabilities.push_back(std::exp(logit - largest) / sum);
  T divisor = normalize ? T(0) : T(1);
  for (const std::int32_t expert : chosen) {
    result.weights.push_back(result.probabilities[static_cast<std::size_t>(expert)]);
    if (normalize) divisor += result.weights.back();
  }
  for (T& weight : result.weights) weight /= divisor;
  return result;
}

// -sum p ln p with 0 ln 0 = 0.
inline double reference_entropy(const std::vector<double>& probabilities) {
  double entropy = 0;
  for (const double p : probabilities) entropy -= p > 0 ? p * std::log(p) : 0;
  return entropy;
}

// Bounds on the fp32 operator's error, first order in u = 2^-24, for E logits that lie at most `range` below
// the largest. Each exp is off by the rounding of its argument (range u) and of itself (4 u, that is 2 units
// in the last place); a sum of E positive terms adds E u.
struct SoftmaxErrors {
  double experts;
  double range;

  // Relative, of the sum; of a probability or a weight.
  double sum() const { return unit() * (range + 4 + experts); }
  double probability() const { return unit() * (2 * (range + 4) + experts + 2); }
  // Absolute: ln of the sum, rounded within a unit in the last place, and added to the largest logit.
  double log_sum_exp(double largest) const {
    return sum() + unit() * (3 * std::log(experts) + std::abs(largest));
  }
  // Absolute; mean_shift = sum_e p (max - l). ln(sum) as before; the quotient of two sums; their difference.
  double entropy(double mean_shift) const {
    return log_sum_exp(0) + mean_shift * (probability() + sum() + 2 * unit()) +
           unit() * (std::log(experts) + mean_shift);
  }
  // What fp32 rounds to zero or to a subnormal number.
  static double underflow() { return std::numeric_limits<float>::min(); }
  static double unit() { return 0.5 * std::numeric_limits<float>::epsilon(); }
};

}  // namespace conclave::test
