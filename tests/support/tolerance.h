// Tolerances that follow from the arithmetic, not from trial.
#pragma once

#include <cmath>
#include <limits>

namespace conclave::test {

// Bound on |fl(sum of n products) - exact| given the sum of the products' magnitudes (Higham, "Accuracy and
// Stability of Numerical Algorithms", section 3.1): gamma_n * magnitude with gamma_n = n u / (1 - n u), u =
// eps / 2. `extra_roundings` counts further operations on the result.
inline double dot_bound(double n, double magnitude, double extra_roundings = 2) {
  const double nu = (n + extra_roundings) * 0.5 * std::numeric_limits<float>::epsilon();
  return nu / (1.0 - nu) * magnitude;
}

}  // namespace conclave::test
