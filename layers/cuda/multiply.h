// A matrix product on the GPU of a context.
#pragma once

#include "layers/ops/gemm/gemm.h"

namespace conclave::cuda {

// As gemm(): arguments already checked, but for their element types. Throws Error for those that no product
// has.
void multiply(Context& ctx, const GemmArgs& args);

}  // namespace conclave::cuda
