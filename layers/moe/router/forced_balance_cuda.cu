#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/router/deal.cuh"

namespace conclave::cuda {
namespace {

// A thread a token.
__global__ void deal_kernel(const float* scores, std::int64_t first, bool normalize, float scale,
                            std::int32_t* experts, float* weights, std::int64_t tokens,
                            std::int64_t experts_count, std::int64_t top_k) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  deal(first + t * top_k, experts_count, top_k, scores + t * experts_count, normalize, scale,
       experts + t * top_k, weights + t * top_k);
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
