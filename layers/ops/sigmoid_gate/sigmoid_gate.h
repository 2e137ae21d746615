// One gate a token: y[t] = sigmoid(logit[t]) x[t], as on the shared experts of Qwen2-MoE (Yang et al., "Qwen2
// technical report", 2024).
#pragma once

#include "layers/context.h"

namespace conclave {

struct SigmoidGateArgs {
  ConstTensorView logits;  // [T, 1]
  ConstTensorView x;       // [T, D]
  TensorView y;            // [T, D] (=); may be x
};

struct SigmoidGateBackwardArgs {
  ConstTensorView logits;  // [T, 1]
  ConstTensorView x;       // [T, D]
  ConstTensorView dy;      // [T, D]
  TensorView dlogits;      // [T, 1] (=)
  TensorView dx;           // [T, D] (=); may be x
};

// All fp32. Throws Error for shapes that do not fit.
void sigmoid_gate(Context& ctx, const SigmoidGateArgs& args);
void sigmoid_gate_backward(Context& ctx, const SigmoidGateBackwardArgs& args);

namespace cpu {  // arguments already checked
void sigmoid_gate(const SigmoidGateArgs& args);
void sigmoid_gate_backward(const SigmoidGateBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
