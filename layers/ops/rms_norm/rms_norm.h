// Root-mean-square normalisation (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019), alone
// and fused with the addition to the residual stream that precedes it in a pre-norm block.
//
//   rstd[t] = 1 / sqrt(mean_d x[t,d]^2 + eps)        y[t,d] = x[t,d] rstd[t] weight[d]
//
// T rows of any width D: tokens of d_model elements, or T*H heads of head_dim elements for QK-norm.
// All fp32, but for y, which may be bf16 where products alone read it. Each function throws Error for shapes
// that do not fit.
#pragma once

#include "layers/context.h"

namespace conclave {

struct RmsNormArgs {
  ConstTensorView x;       // [T, D]
  ConstTensorView weight;  // [D]
  TensorView y;            // [T, D], fp32 or bf16; may be x
  TensorView rstd;         // [T]; for the backward
  float eps = 0.0F;
};
void rms_norm(Context& ctx, const RmsNormArgs& args);

struct RmsNormBackwardArgs {
  ConstTensorView dy;      // [T, D]
  ConstTensorView x;       // [T, D], as it was before the forward
  ConstTensorView weight;  // [D]
  ConstTensorView rstd;    // [T]
  TensorView dx;           // [T, D] (=); may be dy
  TensorView dweight;      // [D] (+=)
};
// Scratch from ctx.arena. dweight sums the rows in an order that does not depend on the number of threads.
void rms_norm_backward(Context& ctx, const RmsNormBackwardArgs& args);

// residual_sum = x + delta; y = rms_norm(residual_sum), in one pass over memory.
struct AddRmsNormArgs {
  ConstTensorView x;        // [T, D], the residual stream
  ConstTensorView delta;    // [T, D], what a branch adds to it
  ConstTensorView weight;   // [D]
  TensorView residual_sum;  // [T, D]; may be x or delta
  TensorView y;             // [T, D], fp32 or bf16; overlaps none of the others
  TensorView rstd;          // [T]
  float eps = 0.0F;
};
void add_rms_norm(Context& ctx, const AddRmsNormArgs& args);

// The gradient of x and of delta is the same: what comes through the norm plus what comes past it.
struct AddRmsNormBackwardArgs {
  ConstTensorView dy;             // [T, D], gradient of y
  ConstTensorView dresidual_sum;  // [T, D], gradient of residual_sum from all its other uses
  ConstTensorView residual_sum;   // [T, D]
  ConstTensorView weight;         // [D]
  ConstTensorView rstd;           // [T]
  TensorView dx;                  // [T, D] (=); may be dy or dresidual_sum
  TensorView dweight;             // [D] (+=)
};
void add_rms_norm_backward(Context& ctx, const AddRmsNormBackwardArgs& args);

namespace cpu {
void rms_norm(const RmsNormArgs& args);
void rms_norm_backward(Context& ctx, const RmsNormBackwardArgs& args);
void add_rms_norm(const AddRmsNormArgs& args);
void add_rms_norm_backward(Context& ctx, const AddRmsNormBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
