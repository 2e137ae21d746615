// The activation of a feed-forward layer without a gate, element by element:
//   relu   h = max(0, u)
//   gelu   h = u / 2 (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3)))
// GELU in the tanh form of Hendrycks and Gimpel, "Gaussian error linear units", 2016, which GPT-2 and most
// models that were trained with GELU use; it is within 5e-4 of u Phi(u), and needs only an exponential.
#pragma once

#include "configs/run.pb.h"
#include "layers/context.h"

namespace conclave {

struct ActivationArgs {
  config::Activation kind = config::gelu;  // gelu or relu
  ConstTensorView up;                      // u [T, F]
  TensorView h;                            // [T, F] (=); may be up
};

struct ActivationBackwardArgs {
  config::Activation kind = config::gelu;
  ConstTensorView up;  // [T, F]
  ConstTensorView dh;  // [T, F]
  TensorView dup;      // [T, F] (=); may be up or dh. The derivative of relu at 0 is 0.
};

// All fp32 or all bf16. Throws Error for shapes that do not fit, and for swiglu, which has a gate
// (layers/ops/swiglu).
void activation(Context& ctx, const ActivationArgs& args);
void activation_backward(Context& ctx, const ActivationBackwardArgs& args);

namespace cpu {  // arguments already checked
void activation(const ActivationArgs& args);
void activation_backward(const ActivationBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
