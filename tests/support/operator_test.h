// What tests of operators share: random inputs, a context without ranks, gradients by complex
// step, element-wise comparison.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <complex>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "layers/context.h"
#include "layers/tensor/philox.h"
#include "tests/support/test_gpu.h"
#include "tests/support/values.h"

namespace conclave::test {

// A context for operators and modules that do not communicate: on the host, or where test_gpu() says.
struct LocalContext : Context {
  LocalContext() : memory(test_gpu() != nullptr ? test_gpu()->device() : Device()) {
    gpu = test_gpu();
    arena = &memory;
  }
  LocalContext(const LocalContext&) = delete;
  LocalContext& operator=(const LocalContext&) = delete;
  Arena memory;
};

// The number of OpenMP threads, until the end of the scope.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

// Normal, the same for the same name and length.
inline Values<float> random_values(std::int64_t count, std::string_view name, double scale = 1.0) {
  const RandomStream random(7, name);
  Values<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(scale * random.normal(i));
  return values;
}

// Uniform in [0, limit).
inline std::vector<std::int32_t> random_tokens(std::int64_t count, std::string_view name,
                                               std::int32_t limit) {
  const RandomStream random(7, name);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<std::int32_t>(random.bits(i) % static_cast<std::uint32_t>(limit));
  }
  return tokens;
}

template <class T, class Memory>
TensorView view(std::vector<T, Memory>& values, Shape shape) {
  return tensor_view(std::span<T>(values), shape);
}
template <class T, class Memory>
ConstTensorView view(const std::vector<T, Memory>& values, Shape shape) {
  return tensor_view(std::span<const T>(values), shape);
}

inline std::vector<float> copy_of(ConstTensorView tensor) {
  const auto values = tensor.values<float>();
  return {values.begin(), values.end()};
}

// The arguments of a templated reference.
template <class T>
std::vector<T> promoted(std::span<const float> values) {
  return {values.begin(), values.end()};
}

// sum_i weights[i] values[i]: the scalar whose gradient by `values` is `weights`.
template <class T>
T weighted_sum(const std::vector<T>& values, std::span<const float> weights) {
  T sum = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * static_cast<double>(weights[i]);
  return sum;
}

// Gradient of an analytic real function at x: Im f(x + i h e_j) / h, without cancellation for any small h
// (Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998).
template <class Function>
std::vector<double> complex_step_gradient(const Function& function, std::span<const float> x) {
  constexpr double kStep = 1e-40;
  auto point = promoted<std::complex<double>>(x);
  std::vector<double> gradient;
  gradient.reserve(x.size());
  for (auto& coordinate : point) {
    coordinate.imag(kStep);
    gradient.push_back(function(point).imag() / kStep);
    coordinate.imag(0.0);
  }
  return gradient;
}

// |actual - expected| <= bound, element by element.
inline void expect_within(std::span<const float> actual, const std::vector<double>& expected,
                          const std::vector<double>& bound, std::string_view what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  ASSERT_EQ(actual.size(), bound.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(actual[i]), expected[i], bound[i]) << what << " at " << i;
  }
}

}  // namespace conclave::test
