// What the two levels of gates of the hierarchical router say: G groups of M experts, of which H groups and K
// / H experts in each of them are chosen.
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/cuda/moe_kernels.h"

namespace conclave {

// Padding has zeros, and any valid groups and experts.
struct HierarchicalGates {
  TensorView group_probabilities;  // p [T, G]
  TensorView chosen_groups;        // int32 [T, H], descending
  TensorView group_weights;        // a [T, H]
  TensorView group_log_sum_exp;    // [T]
  // Within every group, chosen or not: one row for each token and group.
  TensorView probabilities;  // p [T * G, M]
  TensorView places;         // int32 [T * G, K / H], in 0 .. M - 1, descending
  TensorView weights;        // b [T * G, K / H]
  TensorView log_sum_exp;    // [T * G], 0 for the groups that aren't chosen

  std::int64_t tokens() const { return group_probabilities.extent(0); }
  std::int64_t groups() const { return group_probabilities.extent(1); }
  std::int64_t top_groups() const { return chosen_groups.extent(1); }
  std::int64_t group_experts() const { return probabilities.extent(1); }
  std::int64_t top_in_group() const { return places.extent(1); }

  // What choice i of token t, of K that are numbered group by group, is in these tensors.
  struct Choice {
    std::int64_t of_group = 0;  // in chosen_groups and group_weights
    std::int64_t within = 0;    // in places and weights
    std::int32_t expert = 0;    // its global id
  };
  Choice choice(std::int64_t t, std::int64_t i) const;
};

// As kernels take them.
cuda::HierarchicalGates gates_of(const HierarchicalGates& gates);

// Gradients in what the gates say: in their weights, or in their probabilities, in the shapes of these.
struct GateGradients {
  TensorView group;
  TensorView within;
};

// moe.force_balanced: groups and the experts of each in turn, weighed as ever.
void deal_gates(Context& ctx, const HierarchicalGates& gates);

// Sets log_sum_exp of the groups that aren't chosen to 0.
void clear_unchosen_groups(Context& ctx, const HierarchicalGates& gates);

}  // namespace conclave
