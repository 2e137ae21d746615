#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

// A block a group.
__global__ void balance_gradient_kernel(const std::int64_t* counts, double alpha, double tokens,
                                        std::int64_t experts, double* df, float* dprobabilities) {
  __shared__ double scratch[kWarp];
  const std::int64_t first = blockIdx.x * experts;
  double own = 0;  // whole numbers below 2^53: any order gives their sum
  for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x)
    own += static_cast<double>(counts[first + e]);
  const double choices = sum_of_block(own, scratch);
  const double scale = choices > 0 ? static_cast<double>(experts) / (choices * tokens) : 0.0;
  for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x) {
    const double value = scale * static_cast<double>(counts[first + e]);
    df[first + e] = value;
    dprobabilities[first + e] = static_cast<float>(alpha * value);
  }
}

// A warp a token.
__global__ void balance_terms_kernel(const float* probabilities, const double* df,
                                     std::int64_t tokens_a_group, std::int64_t tokens, std::int64_t experts,
                                     double* terms) {
  const std::int64_t t = global_thread() / kWarp;
  if (t >= tokens) return;
  const double* df_of_group = df + t / tokens_a_group * experts;
  double sum = 0;
  for (std::int64_t e = threadIdx.x % kWarp; e < experts; e += kWarp)
    sum += df_of_group[e] * static_cast<double>(probabilities[t * experts + e]);
  sum = sum_of_warp(sum);
  if (threadIdx.x % kWarp == 0) terms[t] = sum;
}

__global__ void accumulate_counts_kernel(std::int64_t* counts, std::int64_t* sums, bool is_first,
                                         std::int64_t experts) {
  const std::int64_t e = global_thread();
  if (e >= experts) return;
  sums[e] = (is_first ? 0 : sums[e]) + counts[e];
  counts[e] = sums[e];
}

}  // namespace

void balance_gradient(StreamHandle stream, const std::int64_t* counts, double alpha, double tokens,
                      std::int64_t G, std::int64_t E, double* df, float* dprobabilities) {
  if (G == 0) return;
  launch("balance_gradient", stream, static_cast<unsigned>(G), kThreads, 0, balance_gradient_kernel, counts,
         alpha, tokens, E, df, dprobabilities);
}

void balance_terms(StreamHandle stream, const float* probabilities, const double* df,
                   std::int64_t tokens_a_group, std::int64_t T, std::int64_t E, double* terms) {
  if (T == 0) return;
  launch("balance_terms", stream, blocks_for(T * kWarp), kThreads, 0, balance_terms_kernel, probabilities, df,
         tokens_a_group, T, E, terms);
}

void accumulate_counts(StreamHandle stream, std::int64_t* counts, std::int64_t* sums, bool is_first,
                       std::int64_t E) {
  launch("accumulate_counts", stream, blocks_for(E), kThreads, 0, accumulate_counts_kernel, counts, sums,
         is_first, E);
}

}  // namespace conclave::cuda
