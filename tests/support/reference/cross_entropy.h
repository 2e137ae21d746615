#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace conclave::reference {

// logits [T, V], targets [T] (-1 = none) -> the loss of each token [T].
template <class T>
std::vector<T> cross_entropy(const std::vector<T>& logits, const std::vector<std::int32_t>& targets) {
  using std::exp;
  using std::log;
  std::vector<T> losses(targets.size(), T(0.0));
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const std::size_t vocabulary = logits.size() / targets.size();
    const T* row = logits.data() + t * vocabulary;
    // Any constant may be subtracted; the target's logit makes the loss log sum exp of differences.
    const T logit = row[targets[t]];
    T sum = 0.0;
    for (std::size_t v = 0; v < vocabulary; ++v) sum += exp(row[v] - logit);
    losses[t] = log(sum);
  }
  return losses;
}

}  // namespace conclave::reference
