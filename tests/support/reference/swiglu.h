#pragma once

#include <cmath>
#include <vector>

namespace conclave::reference {

// gate_up [T, 2F] -> [T, F].
template <class T>
std::vector<T> swiglu(const std::vector<T>& gate_up, std::size_t width) {
  using std::exp;
  std::vector<T> h;
  for (std::size_t row = 0; row < gate_up.size(); row += 2 * width) {
    for (std::size_t f = 0; f < width; ++f) {
      const T gate = gate_up[row + f];
      h.push_back(gate / (1.0 + exp(-gate)) * gate_up[row + width + f]);
    }
  }
  return h;
}

}  // namespace conclave::reference
