// Noisy top-K gating's balance terms as Shazeer et al. (2017) write them, for any scalar type.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "tests/support/reference/softmax_top_k.h"

namespace conclave::test {

template <class T>
T reference_softplus(const T& x) {
  return std::log(T(1) + std::exp(x));
}

// Phi by the series erf(x) = 2 / sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, whose terms have one sign
// on the real line and which holds for complex x. For |z| up to 25 or so; beyond 39 it is 0 or 1 in double.
template <class T>
T reference_normal_cdf(const T& z) {
  if (std::abs(std::real(z)) > 39) return T(std::real(z) > 0 ? 1 : 0);
  const T x = z / std::numbers::sqrt2;
  T term = x;
  T sum = 0;
  for (int n = 0; n < 2000; ++n) {
    sum += term;
    term *= 2.0 * x * x / (2.0 * n + 3);
    if (std::abs(term) < 1e-18 * std::abs(sum)) break;
  }
  return 0.5 + std::exp(-x * x) * sum / std::sqrt(std::numbers::pi);
}

// Variance over the squared mean.
template <class T>
T reference_squared_variation(const std::vector<T>& values) {
  const auto n = static_cast<double>(values.size());
  T mean = 0;
  for (const T& value : values) mean += value / n;
  T variance = 0;
  for (const T& value : values) variance += (value - mean) * (value - mean) / n;
  return variance / (mean * mean);
}

// The probability that each expert is among the K best of one token if its own noise were drawn anew;
// thresholds[e] is the expert whose noisy logit it has to beat, -1 for none.
template <class T>
std::vector<T> reference_load(const std::vector<T>& clean, const std::vector<T>& noisy,
                              const std::vector<T>& deviation, const std::vector<std::int32_t>& thresholds) {
  std::vector<T> load;
  for (std::size_t e = 0; e < clean.size(); ++e) {
    load.push_back(thresholds[e] < 0
                       ? T(1)
                       : reference_normal_cdf(
                             T((clean[e] - noisy[static_cast<std::size_t>(thresholds[e])]) / deviation[e])));
  }
  return load;
}

// The expert with the K-th largest noisy logit among all but e, for each e.
inline std::vector<std::int32_t> reference_thresholds(const std::vector<double>& noisy, std::int64_t top_k) {
  std::vector<std::int32_t> thresholds;
  for (std::size_t e = 0; e < noisy.size(); ++e) {
    std::vector<double> others = noisy;
    others[e] = -std::numeric_limits<double>::infinity();
    thresholds.push_back(
        top_k < static_cast<std::int64_t>(noisy.size()) ? reference_top_k(others, top_k).back() : -1);
  }
  return thresholds;
}

}  // namespace conclave::test
