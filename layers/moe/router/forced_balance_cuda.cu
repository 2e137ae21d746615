#include <cfloat>

#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

// A thread a token.
__global__ void deal_kernel(const float* scores, std::int64_t first, bool normalize, float scale,
                            std::int32_t* experts, float* weights, std::int64_t tokens,
                            std::int64_t experts_count, std::int64_t top_k) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  const float* own = scores + t * experts_count;
  float sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) {
    const std::int64_t expert = (first + t * top_k + k) % experts_count;
    experts[t * top_k + k] = static_cast<std::int32_t>(expert);
    sum += own[expert];
  }
  const float divisor = normalize ? fmaxf(sum, FLT_MIN) : 1.0F;
  for (std::int64_t k = 0; k < top_k; ++k)
    weights[t * top_k + k] = scale * (own[experts[t * top_k + k]] / divisor);
}

__global__ void sigmoids_kernel(const float* logits, float* values, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count) values[i] = sigmoid(logits[i]);
}

}  // namespace

void deal_in_turn(StreamHandle stream, const float* scores, std::int64_t first, bool normalize, float scale,
                  std::int32_t* experts, float* weights, std::int64_t T, std::int64_t E, std::int64_t K) {
  if (T == 0) return;
  launch("deal_in_turn", stream, blocks_for(T), kThreads, 0, deal_kernel, scores, first, normalize, scale,
         experts, weights, T, E, K);
}

void sigmoids(StreamHandle stream, const float* logits, float* values, std::int64_t count) {
  if (count == 0) return;
  launch("sigmoids", stream, blocks_for(count), kThreads, 0, sigmoids_kernel, logits, values, count);
}

}  // namespace conclave::cuda
