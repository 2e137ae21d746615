#pragma once

#include <cmath>
#include <vector>

namespace conclave::reference {

// x [T, H, head_dim] -> the same; row t stands at first_position + t % sequence_length.
template <class T>
std::vector<T> rotary(const std::vector<T>& x, std::size_t heads, std::size_t head_dim, double theta,
                      std::size_t sequence_length, std::size_t first_position) {
  std::vector<T> y(x.size());
  const std::size_t half = head_dim / 2;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t token = i / (heads * head_dim);
    const std::size_t element = i % head_dim;
    const double position = static_cast<double>(first_position + token % sequence_length);
    const double exponent = 2.0 * static_cast<double>(element % half) / static_cast<double>(head_dim);
    const double angle = position / std::pow(theta, exponent);
    const T partner = element < half ? -x[i + half] : x[i - half];
    y[i] = x[i] * std::cos(angle) + partner * std::sin(angle);
  }
  return y;
}

}  // namespace conclave::reference
