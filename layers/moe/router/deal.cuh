// One token's experts in turn: deal() of layers/moe/router/forced_balance.h for a thread of a GPU.
#pragma once

#include <cfloat>
#include <cstdint>

#include <cuda_runtime.h>

namespace conclave::cuda {

__device__ inline void deal(std::int64_t first, std::int64_t experts_count, std::int64_t top_k,
                            const float* scores, bool normalize, float scale, std::int32_t* experts,
                            float* weights) {
  float sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) {
    experts[k] = static_cast<std::int32_t>((first + k) % experts_count);
    sum += scores[experts[k]];
  }
  const float divisor = normalize ? (sum < FLT_MIN ? FLT_MIN : sum) : 1.0F;
  for (std::int64_t k = 0; k < top_k; ++k) weights[k] = scale * (scores[experts[k]] / divisor);
}

}  // namespace conclave::cuda
