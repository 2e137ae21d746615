#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

constexpr double kRootOf2 = 1.4142135623730951;
constexpr double kDensityAt0 = 0.3989422804014327;  // of the normal distribution: 1 / sqrt(2 pi)

// One token, which a warp has.
struct Token {
  std::int64_t first;  // place of its first expert in [T, E]
  const std::int32_t* chosen;
  bool is_padding;
  bool is_open;  // some experts aren't chosen

  __device__ Token(const SmoothLoadProblem& p, std::int64_t t)
      : first(t * p.experts),
        chosen(p.chosen + t * p.top_k),
        is_padding(p.padding != nullptr && p.padding[t] != 0),
        is_open(p.top_k < p.experts && !is_padding) {}
};

__device__ bool is_chosen(const SmoothLoadProblem& p, const Token& token, std::int64_t expert) {
  for (std::int64_t k = 0; k < p.top_k; ++k)
    if (token.chosen[k] == expert) return true;
  return false;
}

// The best of the experts that aren't chosen, ties to the lower id; by all lanes of a warp.
__device__ int best_other(const SmoothLoadProblem& p, const Token& token) {
  const float* noisy = p.noisy + token.first;
  int best = kNone;
  for (std::int64_t e = threadIdx.x % kWarp; e < p.experts; e += kWarp) {
    if (!is_chosen(p, token, e) && (best == kNone || noisy[e] > noisy[best])) best = static_cast<int>(e);
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, best, distance);
    if (other == kNone || other == best) continue;
    if (best == kNone || noisy[other] > noisy[best] || (noisy[other] == noisy[best] && other < best))
      best = other;
  }
  return __shfl_sync(kAllLanes, best, 0);
}

// By how many deviations the clean logit passes its threshold; one of -inf never does.
__device__ double margin(const SmoothLoadProblem& p, std::int64_t at, float threshold) {
  if (p.clean[at] == -INFINITY) return -INFINITY;
  return (static_cast<double>(p.clean[at]) - threshold) / p.deviation[at];
}

// A warp a token.
__global__ void smooth_load_kernel(SmoothLoadProblem p, float* load) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= p.tokens) return;
  const Token token(p, t);
  const float* noisy = p.noisy + token.first;
  const int other = token.is_open ? best_other(p, token) : kNone;
  const std::int32_t last = token.chosen[p.top_k - 1];
  for (std::int64_t e = threadIdx.x % kWarp; e < p.experts; e += kWarp) {
    float& probability = load[token.first + e];
    if (!token.is_open) {
      probability = token.is_padding ? 0.0F : 1.0F;
    } else {
      const double z = margin(p, token.first + e, noisy[is_chosen(p, token, e) ? other : last]);
      probability = static_cast<float>(0.5 * erfc(-z / kRootOf2));
    }
  }
}

// A warp a token.
__global__ void smooth_load_backward_kernel(SmoothLoadProblem p, const float* dload,
                                            std::int64_t tokens_a_row, float* dclean, float* dnoisy,
                                            float* ddeviation) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= p.tokens) return;
  const Token token(p, t);
  const float* noisy = p.noisy + token.first;
  const float* dprobability = dload + t / tokens_a_row * p.experts;
  const int other = token.is_open ? best_other(p, token) : kNone;
  const std::int32_t last = token.chosen[p.top_k - 1];
  float of_chosen = 0;  // slopes, which their common threshold takes
  float of_others = 0;
  for (std::int64_t e = threadIdx.x % kWarp; e < p.experts; e += kWarp) {
    const std::int64_t at = token.first + e;
    if (!token.is_open) {
      dclean[at] = ddeviation[at] = 0;
      continue;
    }
    const bool chosen = is_chosen(p, token, e);
    const double z = margin(p, at, noisy[chosen ? other : last]);
    const double slope = dprobability[e] * kDensityAt0 * exp(-z * z / 2) / p.deviation[at];
    dclean[at] = static_cast<float>(slope);
    ddeviation[at] = fabs(z) == INFINITY ? 0.0F : static_cast<float>(-slope * z);
    (chosen ? of_chosen : of_others) += static_cast<float>(slope);
  }
  of_chosen = sum_of_warp(of_chosen);
  of_others = sum_of_warp(of_others);
  if (threadIdx.x % kWarp != 0 || !token.is_open) return;
  dnoisy[token.first + other] -= of_chosen;
  dnoisy[token.first + last] -= of_others;
}

}  // namespace

void smooth_load(StreamHandle stream, const SmoothLoadProblem& p, float* load) {
  if (p.tokens == 0) return;
  launch("smooth_load", stream, blocks_for(p.tokens * kWarp), kThreads, 0, smooth_load_kernel, p, load);
}

void smooth_load_backward(StreamHandle stream, const SmoothLoadProblem& p, const float* dload,
                          std::int64_t tokens_a_row, float* dclean, float* dnoisy, float* ddeviation) {
  if (p.tokens == 0) return;
  launch("smooth_load_backward", stream, blocks_for(p.tokens * kWarp), kThreads, 0,
         smooth_load_backward_kernel, p, dload, tokens_a_row, dclean, dnoisy, ddeviation);
}

}  // namespace conclave::cuda
