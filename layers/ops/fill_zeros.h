// Zeros into a tensor of floats, on the device of the context.
#pragma once

#include <algorithm>

#include "comm/cuda/memory.h"
#include "layers/context.h"

namespace conclave {

// tensor = 0, of any shape, fp32.
inline void fill_zeros(const Context& ctx, TensorView tensor) {
  if (ctx.on_gpu()) {
    cuda::fill_with_zeros(ctx.gpu->stream(), tensor.raw(),
                          static_cast<std::size_t>(tensor.elements()) * sizeof(float));
  } else {
    std::ranges::fill(tensor.values<float>(), 0.0F);
  }
}

}  // namespace conclave
