// What the scores of a gate come from: logits = x W^T in fp32, without a bias.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave {

class LinearGate {
 public:
  // One parameter: `name` [outputs, d_model], replicated; 0 until initialised.
  LinearGate(std::string name, std::int64_t outputs, std::int64_t d_model);

  std::int64_t outputs() const { return weight_.value().extent(0); }
  Parameter& weight() { return weight_; }

  // x [T, D] -> logits [T, N], assigned.
  void forward(Context& ctx, ConstTensorView x, TensorView logits) const;
  // x [T, D] as in forward, dlogits [T, N] -> dx [T, D], assigned or added to; adds to the gradient of the
  // parameter.
  void backward(Context& ctx, ConstTensorView x, ConstTensorView dlogits, TensorView dx,
                bool accumulate = false) const;

 private:
  Parameter weight_;  // W [N, D]
};

}  // namespace conclave
