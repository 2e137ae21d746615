#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"
#include "layers/cuda/philox.cuh"

namespace conclave::cuda {
namespace {

constexpr float kSmallestDeviation = 0.01F;

__device__ float softplus(float x) { return fmaxf(x, 0.0F) + log1pf(expf(-fabsf(x))); }

__global__ void noisy_logits_kernel(RandomKey random, std::int64_t first_index, NoisyLogits logits,
                                    std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const float noise = draw_normal(random, static_cast<std::uint64_t>(first_index + i));
  const float deviation = softplus(logits.spread[i]) + kSmallestDeviation;
  logits.noise[i] = noise;
  logits.deviation[i] = deviation;
  logits.noisy[i] = logits.clean[i] + noise * deviation;
}

// The slope of softplus is the sigmoid.
__global__ void noisy_logits_backward_kernel(const float* noise, const float* spread, const float* dnoisy,
                                             float* dclean, float* dspread, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  dclean[i] += dnoisy[i];
  dspread[i] = (dspread[i] + dnoisy[i] * noise[i]) * sigmoid(spread[i]);
}

__global__ void add_importance_kernel(const float* dweights, const float* dgates, const std::int32_t* chosen,
                                      float* sums, std::int64_t choices_a_set, std::int64_t choices,
                                      std::int64_t experts) {
  const std::int64_t choice = global_thread();
  if (choice >= choices) return;
  sums[choice] = dweights[choice] + dgates[choice / choices_a_set * experts + chosen[choice]];
}

}  // namespace

void noisy_logits(StreamHandle stream, RandomKey random, std::int64_t first_index, const NoisyLogits& logits,
                  std::int64_t count) {
  if (count == 0) return;
  launch("noisy_logits", stream, blocks_for(count), kThreads, 0, noisy_logits_kernel, random, first_index,
         logits, count);
}

void noisy_logits_backward(StreamHandle stream, const float* noise, const float* spread, const float* dnoisy,
                           float* dclean, float* dspread, std::int64_t count) {
  if (count == 0) return;
  launch("noisy_logits_backward", stream, blocks_for(count), kThreads, 0, noisy_logits_backward_kernel, noise,
         spread, dnoisy, dclean, dspread, count);
}

void add_importance(StreamHandle stream, const float* dweights, const float* dgates,
                    const std::int32_t* chosen, float* sums, std::int64_t tokens_a_set, std::int64_t T,
                    std::int64_t K, std::int64_t E) {
  if (T * K == 0) return;
  launch("add_importance", stream, blocks_for(T * K), kThreads, 0, add_importance_kernel, dweights, dgates,
         chosen, sums, tokens_a_set * K, T * K, E);
}

}  // namespace conclave::cuda
