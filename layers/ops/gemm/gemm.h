// Dense matrix product: c = op(a) op(b), or c += op(a) op(b).
#pragma once

#include "layers/context.h"

namespace conclave {

struct GemmArgs {
  ConstTensorView a;  // [M, K]; [K, M] with transpose_a
  ConstTensorView b;  // [K, N]; [N, K] with transpose_b
  TensorView c;       // [M, N]; must not overlap a or b
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  // true: +=, false: = (c may be uninitialised)
};

// All fp32; on a GPU a and b may also both be bf16, and c then fp32 or bf16. M, N or K may be zero (K = 0
// without accumulate clears c). Throws Error for shapes and element types that do not fit.
void gemm(Context& ctx, const GemmArgs& args);

namespace cpu {
void gemm(const GemmArgs& args);  // oneDNN; arguments already checked
}

}  // namespace conclave
