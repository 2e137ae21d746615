// Tensors as factors of a product on a GPU.
#pragma once

#include "layers/context.h"

namespace conclave::cuda {

// `tensor` as `dtype`, fp32 or bf16: itself, or on a GPU a copy in ctx.arena. Throws Error where it would
// have to be converted on the host, whose products take either.
ConstTensorView as_factor(Context& ctx, const ConstTensorView& tensor, DType dtype);

}  // namespace conclave::cuda
