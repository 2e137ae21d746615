// The loss of a mixture of local experts as the formula says, one sample, for double and
// std::complex<double>.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace conclave::test::reference {

// -ln sum_e p_e exp(-|d - o_e|^2 / (2 sigma^2)), p = softmax(logits). outputs [E][O].
template <class T>
T mixture_loss(const std::vector<T>& logits, const std::vector<std::vector<T>>& outputs,
               const std::vector<double>& target, double sigma) {
  using std::exp;
  using std::log;
  T gate_sum(0.0);
  T likelihood(0.0);
  for (std::size_t e = 0; e < logits.size(); ++e) {
    T squared_distance(0.0);
    for (std::size_t i = 0; i < target.size(); ++i) {
      const T error = outputs[e][i] - target[i];
      squared_distance += error * error;
    }
    gate_sum += exp(logits[e]);
    likelihood += exp(logits[e]) * exp(-squared_distance / (2.0 * sigma * sigma));
  }
  return log(gate_sum) - log(likelihood);
}

}  // namespace conclave::test::reference
