// AdamW as the paper writes it, one element at a time.
#pragma once

#include <cmath>

namespace conclave::test {

struct AdamWOptions {
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
};

template <class T>
struct AdamWElement {
  T value{};
  T m{};
  T v{};
  int updates = 0;

  void update(const AdamWOptions& options, T learning_rate, T gradient) {
    using std::sqrt;
    ++updates;
    m = options.beta1 * m + (1.0 - options.beta1) * gradient;
    v = options.beta2 * v + (1.0 - options.beta2) * gradient * gradient;
    const T m_hat = m / (1.0 - std::pow(options.beta1, updates));
    const T v_hat = v / (1.0 - std::pow(options.beta2, updates));
    value -= learning_rate * (m_hat / (sqrt(v_hat) + options.eps) + options.weight_decay * value);
  }
};

}  // namespace conclave::test
