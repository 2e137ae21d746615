#pragma once

#include <vector>

namespace conclave::reference {

// x [T, inputs], weight [outputs, inputs] -> x weight^T [T, outputs].
template <class T>
std::vector<T> linear(const std::vector<T>& x, const std::vector<T>& weight, std::size_t inputs) {
  const std::size_t outputs = weight.size() / inputs;
  const std::size_t rows = x.size() / inputs;
  std::vector<T> y(rows * outputs, T(0.0));
  for (std::size_t t = 0; t < rows; ++t) {
    for (std::size_t o = 0; o < outputs; ++o) {
      for (std::size_t i = 0; i < inputs; ++i)
        y[t * outputs + o] += x[t * inputs + i] * weight[o * inputs + i];
    }
  }
  return y;
}

}  // namespace conclave::reference
