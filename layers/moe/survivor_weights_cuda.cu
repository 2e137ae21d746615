#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

__device__ float sum_of_survivors(const float* weights, const std::int32_t* row_of_choice, std::int64_t first,
                                  std::int64_t top_k) {
  float sum = 0;
  for (std::int64_t choice = first; choice < first + top_k; ++choice) {
    if (row_of_choice[choice] != kNone) sum += weights[choice];
  }
  return sum;
}

// A thread a token, in both.
__global__ void survivor_weights_kernel(const float* weights, const std::int32_t* row_of_choice, float scale,
                                        float* survivors, std::int64_t tokens, std::int64_t top_k) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  const float sum = sum_of_survivors(weights, row_of_choice, t * top_k, top_k);
  for (std::int64_t choice = t * top_k; choice < (t + 1) * top_k; ++choice) {
    const bool is_left = row_of_choice[choice] != kNone && sum != 0.0F;
    survivors[choice] = is_left ? scale * (weights[choice] / sum) : 0.0F;
  }
}

__global__ void survivor_weights_backward_kernel(const float* weights, const std::int32_t* row_of_choice,
                                                 float scale, const float* dsurvivors, float* dweights,
                                                 std::int64_t tokens, std::int64_t top_k) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  const std::int64_t first = t * top_k;
  const float sum = sum_of_survivors(weights, row_of_choice, first, top_k);
  float mean = 0;  // of dsurvivors, by weight
  for (std::int64_t choice = first; choice < first + top_k; ++choice) {
    if (sum != 0.0F && row_of_choice[choice] != kNone) mean += weights[choice] / sum * dsurvivors[choice];
  }
  for (std::int64_t choice = first; choice < first + top_k; ++choice) {
    const bool is_left = sum != 0.0F && row_of_choice[choice] != kNone;
    dweights[choice] = is_left ? scale / sum * (dsurvivors[choice] - mean) : 0.0F;
  }
}

}  // namespace

void survivor_weights(StreamHandle stream, const float* weights, const std::int32_t* row_of_choice,
                      float scale, float* survivors, std::int64_t T, std::int64_t K) {
  if (T == 0) return;
  launch("survivor_weights", stream, blocks_for(T), kThreads, 0, survivor_weights_kernel, weights,
         row_of_choice, scale, survivors, T, K);
}

void survivor_weights_backward(StreamHandle stream, const float* weights, const std::int32_t* row_of_choice,
                               float scale, const float* dsurvivors, float* dweights, std::int64_t T,
                               std::int64_t K) {
  if (T == 0) return;
  launch("survivor_weights_backward", stream, blocks_for(T), kThreads, 0, survivor_weights_backward_kernel,
         weights, row_of_choice, scale, dsurvivors, dweights, T, K);
}

}  // namespace conclave::cuda
