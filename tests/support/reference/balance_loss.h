// The load-balance and z-loss of one set of tokens as their papers write them, for any scalar type.
#pragma once

#include <cstdint>
#include <vector>

namespace conclave::test {

// E * sum_e f[e] P[e]; probabilities [A][E], experts [A][K] and, for f, the choices of `counted` (the same
// tokens, or more of them).
template <class T>
T reference_balance_loss(const std::vector<std::vector<T>>& probabilities,
                         const std::vector<std::vector<std::int32_t>>& counted) {
  const std::size_t experts = probabilities.front().size();
  T loss = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    double choices_of_e = 0;
    double choices = 0;
    for (const auto& chosen : counted)
      for (const std::int32_t expert : chosen) {
        choices += 1;
        choices_of_e += expert == static_cast<std::int32_t>(e) ? 1 : 0;
      }
    T mean_probability = 0;
    for (const auto& p : probabilities) mean_probability += p[e] / static_cast<double>(probabilities.size());
    loss += static_cast<double>(experts) * (choices_of_e / choices) * mean_probability;
  }
  return loss;
}

// Mean of log_sum_exp^2.
template <class T>
T reference_z_loss(const std::vector<T>& log_sum_exp) {
  T loss = 0;
  for (const T& value : log_sum_exp) loss += value * value / static_cast<double>(log_sum_exp.size());
  return loss;
}

}  // namespace conclave::test
