#pragma once

#include <cmath>
#include <vector>

namespace conclave::reference {

// x [T, D], weight [D] -> [T, D].
template <class T>
std::vector<T> rms_norm(const std::vector<T>& x, const std::vector<T>& weight, double eps) {
  using std::sqrt;
  const std::size_t width = weight.size();
  std::vector<T> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    T mean = 0.0;
    for (std::size_t d = 0; d < width; ++d) mean += x[row + d] * x[row + d] / static_cast<double>(width);
    for (std::size_t d = 0; d < width; ++d) y[row + d] = weight[d] * x[row + d] / sqrt(mean + eps);
  }
  return y;
}

}  // namespace conclave::reference
