// Gradients of whole models and blocks against complex steps of a reference, within what fp32 can do.
//
// The bound. Products with a weight matrix are backward stable: the computed result is the exact one of
// weights that are off by at most n units of rounding, n the length of the sum (Higham, "Accuracy and
// Stability of Numerical Algorithms", section 3.1), and the few roundings of element-wise functions can be
// charged to the weights that follow. So fp32 deviates like an exact evaluation with perturbed weights, and
// how much one unit in each weight does, through all layers and back, is measured on the reference itself:
// the `sensitivity`.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "layers/parameter.h"
#include "layers/tensor/philox.h"
#include "tests/support/reference/language_model.h"

namespace conclave::test {

inline constexpr double kUnit = std::numeric_limits<float>::epsilon();

inline double norm_of(std::span<const double> values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares);
}

// || actual - expected ||
template <class T>
double distance(std::span<const T> actual, std::span<const double> expected) {
  std::vector<double> difference(expected.begin(), expected.end());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= static_cast<double>(actual[i]);
  return norm_of(difference);
}

inline NamedTensors<double> values_of(std::span<Parameter* const> parameters) {
  NamedTensors<double> values;
  for (const Parameter* parameter : parameters) {
    const auto value = parameter->value().values<float>();
    values[parameter->name()].assign(value.begin(), value.end());
  }
  return values;
}

// Moves norms away from 1, where a wrong gradient could hide.
inline void spread_norms(std::span<Parameter* const> parameters) {
  for (Parameter* parameter : parameters) {
    if (parameter->name().find("norm") == std::string::npos) continue;
    const RandomStream random(3, parameter->name());
    std::uint64_t index = 0;
    for (float& value : parameter->mutable_value().values<float>()) value += 0.2F * random.normal(index++);
  }
}

// Every value moved by one unit of fp32 rounding, up or down.
inline NamedTensors<double> perturbed(NamedTensors<double> tensors) {
  for (auto& [name, values] : tensors) {
    const RandomStream random(5, name);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] *= 1 + (random.bits(i) % 2 ? kUnit : -kUnit);
  }
  return tensors;
}

// Gradients of loss(NamedTensors<complex>) in every element of `at`.
template <class Loss>
NamedTensors<double> complex_step_gradients(const Loss& loss, const NamedTensors<double>& at) {
  using Complex = std::complex<double>;
  constexpr double kStep = 1e-40;
  NamedTensors<Complex> point;
  for (const auto& [name, values] : at) point[name].assign(values.begin(), values.end());
  NamedTensors<double> gradients;
  for (auto& [name, values] : point) {
    for (Complex& value : values) {
      value.imag(kStep);
      gradients[name].push_back(loss(point).imag() / kStep);
      value.imag(0);
    }
  }
  return gradients;
}

struct ExpectedGradients {
  NamedTensors<double> values;
  double sensitivity = 0;  // largest relative change of a tensor for one unit in every weight

  // `longest_sum`: terms of the longest sum on the way forward or back.
  template <class Loss>
  ExpectedGradients(const Loss& loss, const NamedTensors<double>& at, double longest_sum)
      : values(complex_step_gradients(loss, at)), longest_sum_(longest_sum) {
    const double largest = largest_norm();
    for (const auto& [name, moved] : complex_step_gradients(loss, perturbed(at))) {
      const std::vector<double>& exact = values.at(name);
      const double norm = norm_of(exact);
      if (norm > kRoundingOfDoubles * largest) {  // else it is 0 but for the reference's own rounding
        sensitivity = std::max(sensitivity, distance(std::span<const double>(moved), exact) / norm);
      }
    }
  }

  // Relative, of a whole tensor.
  double tolerance() const { return (longest_sum_ + kElementWise) * (sensitivity + kUnit); }

  void expect_match(std::span<const float> actual, const std::string& name) const {
    ASSERT_TRUE(values.contains(name)) << name;
    const std::vector<double>& expected = values.at(name);
    ASSERT_EQ(actual.size(), expected.size()) << name;
    EXPECT_LT(tolerance(), 1e-2) << "a bound that says something";
    const double slack = kRoundingOfDoubles * largest_norm();
    EXPECT_LE(distance(actual, expected), tolerance() * norm_of(expected) + slack) << "gradient of " << name;
  }

  double largest_norm() const {
    double largest = 0;
    for (const auto& [name, exact] : values) largest = std::max(largest, norm_of(exact));
    return largest;
  }

 private:
  static constexpr double kRoundingOfDoubles = 1e-13;
  static constexpr double kElementWise = 16;  // roundings between two products: norm, rotation, softmax, gate
  double longest_sum_;
};

}  // namespace conclave::test
