// The router supervision as its formula says, for any scalar type.
#pragma once

#include <cmath>
#include <vector>

namespace conclave::test {

// -ln of the probability that softmax(logits) gives to `experts` together.
template <class T>
T reference_supervision(const std::vector<T>& logits, const std::vector<std::size_t>& experts) {
  using std::exp;
  using std::log;
  T all = 0;
  T wanted = 0;
  for (const T& logit : logits) all += exp(logit);
  for (const std::size_t expert : experts) wanted += exp(logits[expert]);
  return log(all) - log(wanted);
}

}  // namespace conclave::test
