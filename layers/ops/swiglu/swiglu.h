// The gated activation of a feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020):
//   h = silu(gate) up,   silu(g) = g / (1 + e^-g)
#pragma once

#include "layers/context.h"

namespace conclave {

struct SwigluArgs {
  ConstTensorView gate_up;  // [T, 2F]: columns [0, F) are gate, [F, 2F) are up
  TensorView h;             // [T, F] (=); must not overlap gate_up
};

struct SwigluBackwardArgs {
  ConstTensorView gate_up;  // [T, 2F]
  ConstTensorView dh;       // [T, F]
  TensorView dgate_up;      // [T, 2F] (=); may be gate_up
};

// All fp32 or all bf16. Throws Error for shapes that do not fit.
void swiglu(Context& ctx, const SwigluArgs& args);
void swiglu_backward(Context& ctx, const SwigluBackwardArgs& args);

namespace cpu {
void swiglu(const SwigluArgs& args);
void swiglu_backward(const SwigluBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
