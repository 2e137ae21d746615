#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

// A block for one expert of one set.
__global__ void variation_sums_kernel(const std::int32_t* experts, const float* gates, const float* load,
                                      const double* tokens_of_set, std::int64_t tokens_a_set,
                                      std::int64_t top_k, std::int64_t experts_count, double* sums) {
  __shared__ double scratch[kWarp];
  const std::int64_t set = blockIdx.x / experts_count;
  const std::int64_t expert = blockIdx.x % experts_count;
  double importance = 0;
  const std::int64_t end_of_choices = (set + 1) * tokens_a_set * top_k;
  for (std::int64_t choice = set * tokens_a_set * top_k + threadIdx.x; choice < end_of_choices;
       choice += blockDim.x) {
    if (experts[choice] == expert) importance += static_cast<double>(gates[choice]);
  }
  importance = sum_of_block(importance, scratch);
  double probability = 0;
  for (std::int64_t t = set * tokens_a_set + threadIdx.x; load != nullptr && t < (set + 1) * tokens_a_set;
       t += blockDim.x) {
    probability += static_cast<double>(load[t * experts_count + expert]);
  }
  probability = sum_of_block(probability, scratch);
  if (threadIdx.x != 0) return;
  double* own = sums + set * (2 * experts_count + 1);
  own[expert] = importance;
  own[experts_count + expert] = probability;
  if (expert == 0) own[2 * experts_count] = tokens_of_set[set];
}

// A block a set. CV^2 of v [E] is variance / mean^2; its gradient 2 / (E mean) ((v - mean) / mean - CV^2).
__global__ void variation_gradient_kernel(const double* all_sums, std::int64_t first,
                                          const double* tokens_of_set, double global_tokens, double weight,
                                          std::int64_t experts, double* terms, float* dvalues) {
  __shared__ double scratch[kWarp];
  const std::int64_t set = blockIdx.x;
  const double* row = all_sums + set * (2 * experts + 1);
  const double* sums = row + first;
  const auto count = static_cast<double>(experts);
  double own = 0;
  for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x) own += sums[e];
  const double mean = sum_of_block(own, scratch) / count;
  own = 0;
  for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x) own += (sums[e] - mean) * (sums[e] - mean);
  const double variance = sum_of_block(own, scratch) / count;
  const double variation = mean == 0 ? 0 : variance / (mean * mean);
  const double share = weight * row[2 * experts] / global_tokens;
  for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x) {
    const double gradient = mean == 0 ? 0 : 2 / (count * mean) * ((sums[e] - mean) / mean - variation);
    dvalues[set * experts + e] = static_cast<float>(share * gradient);
  }
  if (threadIdx.x == 0) terms[set] = variation * tokens_of_set[set] / global_tokens;
}

}  // namespace

void variation_sums(StreamHandle stream, const std::int32_t* experts, const float* gates, const float* load,
                    const double* tokens_of_set, std::int64_t tokens_a_set, std::int64_t A, std::int64_t K,
                    std::int64_t E, double* sums) {
  if (A == 0) return;
  launch("variation_sums", stream, static_cast<unsigned>(A * E), kThreads, 0, variation_sums_kernel, experts,
         gates, load, tokens_of_set, tokens_a_set, K, E, sums);
}

void variation_gradient(StreamHandle stream, const double* sums, std::int64_t first,
                        const double* tokens_of_set, double global_tokens, double weight, std::int64_t A,
                        std::int64_t E, double* terms, float* dvalues) {
  if (A == 0) return;
  launch("variation_gradient", stream, static_cast<unsigned>(A), kThreads, 0, variation_gradient_kernel, sums,
         first, tokens_of_set, global_tokens, weight, E, terms, dvalues);
}

}  // namespace conclave::cuda
