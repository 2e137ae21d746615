// The two levels of gates of the hierarchical router, sum by sum in the order of the host.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/router/deal.cuh"

namespace conclave::cuda {
namespace {

// HierarchicalGates::choice() of the host.
struct GateChoice {
  std::int64_t of_group;
  std::int64_t within;
  std::int32_t expert;
};
__device__ GateChoice choice_of(const HierarchicalGates& gates, std::int64_t t, std::int64_t i) {
  const std::int64_t of_group = t * gates.top_groups + i / gates.top_in_group;
  const std::int64_t group = gates.chosen_groups[of_group];
  const std::int64_t within = (t * gates.groups + group) * gates.top_in_group + i % gates.top_in_group;
  return {of_group, within, static_cast<std::int32_t>(group * gates.group_experts) + gates.places[within]};
}

// A thread a chosen group.
__global__ void deal_within_groups_kernel(HierarchicalGates gates, std::int64_t first_token) {
  const std::int64_t i = global_thread();
  if (i >= gates.tokens * gates.top_groups) return;
  const std::int64_t row = i / gates.top_groups * gates.groups + gates.chosen_groups[i];
  const std::int64_t round = (first_token * gates.top_groups + i) / gates.groups;
  deal(round * gates.top_in_group, gates.group_experts, gates.top_in_group,
       gates.probabilities + row * gates.group_experts, /*normalize=*/true, /*scale=*/1.0F,
       gates.places + row * gates.top_in_group, gates.weights + row * gates.top_in_group);
}

// A thread a token and group.
__global__ void clear_unchosen_groups_kernel(HierarchicalGates gates) {
  const std::int64_t row = global_thread();
  if (row >= gates.tokens * gates.groups) return;
  const std::int32_t* chosen = gates.chosen_groups + row / gates.groups * gates.top_groups;
  bool is_chosen = false;
  for (std::int64_t h = 0; h < gates.top_groups; ++h)
    is_chosen = is_chosen || chosen[h] == row % gates.groups;
  if (!is_chosen) gates.log_sum_exp[row] = 0.0F;
}

// A thread a token, here and in the next two.
__global__ void multiply_weights_kernel(HierarchicalGates gates, float scale, std::int32_t* all_order,
                                        std::int32_t* all_experts, float* all_weights) {
  const std::int64_t t = global_thread();
  if (t >= gates.tokens) return;
  const std::int64_t top_k = gates.top_groups * gates.top_in_group;
  std::int32_t* order = all_order + t * top_k;
  std::int32_t* experts = all_experts + t * top_k;
  float* weights = all_weights + t * top_k;
  for (std::int64_t i = 0; i < top_k; ++i) {
    const GateChoice choice = choice_of(gates, t, i);
    const float weight = scale * gates.group_weights[choice.of_group] * gates.weights[choice.within];
    std::int64_t place = i;
    for (; place > 0; --place) {
      const float other = weights[place - 1];
      if (!(weight > other || (weight == other && choice.expert < experts[place - 1]))) break;
      order[place] = order[place - 1];
      experts[place] = experts[place - 1];
      weights[place] = other;
    }
    order[place] = static_cast<std::int32_t>(i);
    experts[place] = choice.expert;
    weights[place] = weight;
  }
}

__global__ void multiply_weights_backward_kernel(HierarchicalGates gates, float scale,
                                                 const std::int32_t* order, const float* dweights,
                                                 float* dgroup_weights, float* dweights_within) {
  const std::int64_t t = global_thread();
  if (t >= gates.tokens) return;
  const std::int64_t top_k = gates.top_groups * gates.top_in_group;
  const std::int64_t places = gates.groups * gates.top_in_group;
  for (std::int64_t h = 0; h < gates.top_groups; ++h) dgroup_weights[t * gates.top_groups + h] = 0.0F;
  for (std::int64_t i = 0; i < places; ++i) dweights_within[t * places + i] = 0.0F;
  for (std::int64_t k = t * top_k; k < (t + 1) * top_k; ++k) {
    const GateChoice choice = choice_of(gates, t, order[k]);
    const float dproduct = scale * dweights[k];
    dgroup_weights[choice.of_group] += dproduct * gates.weights[choice.within];
    dweights_within[choice.within] = dproduct * gates.group_weights[choice.of_group];
  }
}

__global__ void joint_entropy_kernel(HierarchicalGates gates, const float* group_entropy,
                                     const float* entropy_within, float* entropy) {
  const std::int64_t t = global_thread();
  if (t >= gates.tokens) return;
  double sum = group_entropy[t];
  for (std::int64_t row = t * gates.groups; row < (t + 1) * gates.groups; ++row) {
    const float p = gates.group_probabilities[row];
    sum += p > 0.0F ? static_cast<double>(p) * entropy_within[row] : 0.0;
  }
  entropy[t] = static_cast<float>(sum);
}

// A thread an expert of a token; the first of a token does what there is one of.
__global__ void join_gates_kernel(HierarchicalGates gates, float* joint, float* log_sum_exp) {
  const std::int64_t experts = gates.groups * gates.group_experts;
  const std::int64_t i = global_thread();
  if (i >= gates.tokens * experts) return;
  joint[i] = gates.group_probabilities[i / gates.group_experts] * gates.probabilities[i];
  if (i % experts != 0) return;
  const std::int64_t t = i / experts;
  float squares = gates.group_log_sum_exp[t] * gates.group_log_sum_exp[t];
  for (std::int64_t row = t * gates.groups; row < (t + 1) * gates.groups; ++row)
    squares += gates.log_sum_exp[row] * gates.log_sum_exp[row];
  log_sum_exp[t] = sqrtf(squares);
}

// A thread an expert of a token; the first of a group does what there is one of.
__global__ void join_gates_backward_kernel(HierarchicalGates gates, const float* djoint,
                                           std::int64_t tokens_a_row, float* dgroup_probabilities,
                                           float* dprobabilities) {
  const std::int64_t size = gates.group_experts;
  const std::int64_t experts = gates.groups * size;
  const std::int64_t i = global_thread();
  if (i >= gates.tokens * experts) return;
  const float* dp = djoint + i / experts / tokens_a_row * experts + i % experts;  // of this expert
  const std::int64_t row = i / size;
  dprobabilities[i] = *dp * gates.group_probabilities[row];
  if (i % size != 0) return;
  float sum = 0;
  for (std::int64_t m = 0; m < size; ++m) sum += dp[m] * gates.probabilities[i + m];
  dgroup_probabilities[row] = sum;
}

}  // namespace

void deal_within_groups(StreamHandle stream, const HierarchicalGates& gates, std::int64_t first_token) {
  if (gates.tokens == 0) return;
  launch("deal_within_groups", stream, blocks_for(gates.tokens * gates.top_groups), kThreads, 0,
         deal_within_groups_kernel, gates, first_token);
}

void clear_unchosen_groups(StreamHandle stream, const HierarchicalGates& gates) {
  if (gates.tokens == 0) return;
  launch("clear_unchosen_groups", stream, blocks_for(gates.tokens * gates.groups), kThreads, 0,
         clear_unchosen_groups_kernel, gates);
}

void multiply_weights(StreamHandle stream, const HierarchicalGates& gates, float scale, std::int32_t* order,
                      std::int32_t* experts, float* weights) {
  if (gates.tokens == 0) return;
  launch("multiply_weights", stream, blocks_for(gates.tokens), kThreads, 0, multiply_weights_kernel, gates,
         scale, order, experts, weights);
}

void multiply_weights_backward(StreamHandle stream, const HierarchicalGates& gates, float scale,
                               const std::int32_t* order, const float* dweights, float* dgroup_weights,
                               float* dweights_within) {
  if (gates.tokens == 0) return;
  launch("multiply_weights_backward", stream, blocks_for(gates.tokens), kThreads, 0,
         multiply_weights_backward_kernel, gates, scale, order, dweights, dgroup_weights, dweights_within);
}

void joint_entropy(StreamHandle stream, const HierarchicalGates& gates, const float* group_entropy,
                   const float* entropy_within, float* entropy) {
  if (gates.tokens == 0) return;
  launch("joint_entropy", stream, blocks_for(gates.tokens), kThreads, 0, joint_entropy_kernel, gates,
         group_entropy, entropy_within, entropy);
}

void join_gates(StreamHandle stream, const HierarchicalGates& gates, float* joint, float* log_sum_exp) {
  if (gates.tokens == 0) return;
  launch("join_gates", stream, blocks_for(gates.tokens * gates.groups * gates.group_experts), kThreads, 0,
         join_gates_kernel, gates, joint, log_sum_exp);
}

void join_gates_backward(StreamHandle stream, const HierarchicalGates& gates, const float* djoint,
                         std::int64_t tokens_a_row, float* dgroup_probabilities, float* dprobabilities) {
  if (gates.tokens == 0) return;
  launch("join_gates_backward", stream, blocks_for(gates.tokens * gates.groups * gates.group_experts),
         kThreads, 0, join_gates_backward_kernel, gates, djoint, tokens_a_row, dgroup_probabilities,
         dprobabilities);
}

}  // namespace conclave::cuda
