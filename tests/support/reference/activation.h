// Activations of a feed-forward without a gate, and their derivatives, for double, std::complex<double> and
// Bounded.
#pragma once

#include <cmath>
#include <complex>
#include <numbers>
#include <vector>

#include "configs/run.pb.h"
#include "tests/support/bounded.h"

namespace conclave::test::reference {

inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }
inline double real_part(const Bounded& x) { return x.value(); }

// (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2
template <class T>
T gelu_gate(const T& u) {
  using std::exp;
  const T z = T(std::sqrt(2 / std::numbers::pi)) * (u + T(0.044715) * u * u * u);
  return T(1.0) / (T(1.0) + exp(T(-2.0) * z));
}

template <class T>
T activation(config::Activation kind, const T& u) {
  if (kind == config::relu) return real_part(u) > 0 ? u : T(0.0);
  return u * gelu_gate(u);
}

template <class T>
T activation_derivative(config::Activation kind, const T& u) {
  if (kind == config::relu) return T(real_part(u) > 0 ? 1.0 : 0.0);
  const T gate = gelu_gate(u);
  const T dz = T(std::sqrt(2 / std::numbers::pi)) * (T(1.0) + T(3 * 0.044715) * u * u);
  return gate + T(2.0) * u * gate * (T(1.0) - gate) * dz;
}

template <class T>
std::vector<T> activations(config::Activation kind, const std::vector<T>& up) {
  std::vector<T> h;
  for (const T& u : up) h.push_back(activation(kind, u));
  return h;
}

}  // namespace conclave::test::reference
