// Products of rows ordered by expert with one matrix per expert: the linear layers of stacked experts.
//
// Rows [offsets[e], offsets[e + 1]) belong to expert e; offsets [n + 1] start at 0, never fall and end at R.
// On a GPU they may lie in its memory; then they are trusted, and may end before R: rows beyond are left
// alone. An expert may have no rows, and so may all. Everything is fp32; on a GPU both factors may also be
// bf16, and a result other than dweights then fp32 or bf16. No result may overlap an argument. Results do not
// depend on the number of OpenMP threads; on a GPU a row's result depends on no other row either. Each
// function throws Error for shapes or offsets that do not fit.
#pragma once

#include "layers/context.h"

namespace conclave {

struct GroupedGemmArgs {
  ConstTensorView x;        // [R, K]
  ConstTensorView weights;  // [n, N, K]
  ConstTensorView offsets;  // int64 [n + 1]
  TensorView y;             // [R, N]; may be uninitialised
};
// y[r] = W[e] x[r] for the rows r of each expert e.
void grouped_gemm(Context& ctx, const GroupedGemmArgs& args);

struct GroupedGemmInputGradientArgs {
  ConstTensorView dy;       // [R, N]
  ConstTensorView weights;  // [n, N, K]
  ConstTensorView offsets;  // int64 [n + 1]
  TensorView dx;            // [R, K]; may be uninitialised
};
// dx[r] = W[e]^T dy[r] for the rows r of each expert e.
void grouped_gemm_input_gradient(Context& ctx, const GroupedGemmInputGradientArgs& args);

struct GroupedGemmWeightGradientArgs {
  ConstTensorView dy;       // [R, N]
  ConstTensorView x;        // [R, K]
  ConstTensorView offsets;  // int64 [n + 1]
  TensorView dweights;      // [n, N, K]
  bool accumulate = true;   // true: +=, false: = (dweights may be uninitialised)
};
// dW[e] += sum over the rows r of expert e of dy[r] x[r]^T; without rows it is left, or cleared.
void grouped_gemm_weight_gradient(Context& ctx, const GroupedGemmWeightGradientArgs& args);

namespace cpu {  // oneDNN; arguments already checked
void grouped_gemm(const GroupedGemmArgs& args);
void grouped_gemm_input_gradient(const GroupedGemmInputGradientArgs& args);
void grouped_gemm_weight_gradient(const GroupedGemmWeightGradientArgs& args);
}  // namespace cpu

}  // namespace conclave
