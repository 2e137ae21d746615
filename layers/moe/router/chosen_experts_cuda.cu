// What is left of a choice by chance, and choices that a table makes.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"
#include "layers/cuda/philox.cuh"

namespace conclave::cuda {
namespace {

// A thread a token.
__global__ void keep_second_choices_kernel(RandomKey random, std::int64_t first_token, bool keeps_all,
                                           float scale, const std::uint8_t* padding,
                                           const std::int32_t* chosen, const float* chosen_weights,
                                           std::int32_t* experts, float* weights, std::int64_t tokens) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  const std::int64_t first = 2 * t;
  const std::int64_t second = first + 1;
  const bool is_token = padding == nullptr || padding[t] == 0;
  const float uniform = draw(random, static_cast<std::uint64_t>(first_token + t)).value[0];
  const bool keeps_second = is_token && (keeps_all || uniform < 2 * (chosen_weights[second] / scale));
  experts[first] = is_token ? chosen[first] : kNone;
  weights[first] = is_token ? chosen_weights[first] : 0.0F;
  experts[second] = keeps_second ? chosen[second] : kNone;
  weights[second] = keeps_second ? chosen_weights[second] : 0.0F;
}

// A thread a choice.
__global__ void look_up_experts_kernel(const std::int32_t* table, const std::int32_t* ids,
                                       const std::uint8_t* padding, float weight, std::int32_t* experts,
                                       float* weights, std::int64_t choices, std::int64_t top_k) {
  const std::int64_t choice = global_thread();
  if (choice >= choices) return;
  const std::int64_t t = choice / top_k;
  const bool is_token = padding == nullptr || padding[t] == 0;
  experts[choice] = is_token ? table[ids[t] * top_k + choice % top_k] : kNone;
  weights[choice] = is_token ? weight : 0.0F;
}

}  // namespace

void keep_second_choices(StreamHandle stream, RandomKey random, std::int64_t first_token, bool keeps_all,
                         float scale, const std::uint8_t* padding, const std::int32_t* chosen,
                         const float* chosen_weights, std::int32_t* experts, float* weights, std::int64_t T) {
  if (T == 0) return;
  launch("keep_second_choices", stream, blocks_for(T), kThreads, 0, keep_second_choices_kernel, random,
         first_token, keeps_all, scale, padding, chosen, chosen_weights, experts, weights, T);
}

void look_up_experts(StreamHandle stream, const std::int32_t* table, const std::int32_t* ids,
                     const std::uint8_t* padding, float weight, std::int32_t* experts, float* weights,
                     std::int64_t T, std::int64_t K) {
  if (T * K == 0) return;
  launch("look_up_experts", stream, blocks_for(T * K), kThreads, 0, look_up_experts_kernel, table, ids,
         padding, weight, experts, weights, T * K, K);
}

}  // namespace conclave::cuda
