#include "layers/moe/router/hierarchical_gates.h"

#include <algorithm>

#include "layers/cuda/arguments.h"
#include "layers/moe/router/forced_balance.h"

namespace conclave {

HierarchicalGates::Choice HierarchicalGates::choice(std::int64_t t, std::int64_t i) const {
  Choice choice;
  choice.of_group = t * top_groups() + i / top_in_group();
  const std::int64_t group = chosen_groups.data<std::int32_t>()[choice.of_group];
  choice.within = (t * groups() + group) * top_in_group() + i % top_in_group();
  choice.expert =
      static_cast<std::int32_t>(group * group_experts()) + places.data<std::int32_t>()[choice.within];
  return choice;
}

cuda::HierarchicalGates gates_of(const HierarchicalGates& gates) {
  return {.tokens = gates.tokens(),
          .groups = gates.groups(),
          .top_groups = gates.top_groups(),
          .group_experts = gates.group_experts(),
          .top_in_group = gates.top_in_group(),
          .group_probabilities = gates.group_probabilities.data<float>(),
          .chosen_groups = gates.chosen_groups.data<std::int32_t>(),
          .group_weights = gates.group_weights.data<float>(),
          .group_log_sum_exp = gates.group_log_sum_exp.data<float>(),
          .probabilities = gates.probabilities.data<float>(),
          .places = gates.places.data<std::int32_t>(),
          .weights = gates.weights.data<float>(),
          .log_sum_exp = gates.log_sum_exp.data<float>()};
}

void deal_gates(Context& ctx, const HierarchicalGates& gates) {
  deal_in_turn(
      ctx,
      {.scores = gates.group_probabilities, .experts = gates.chosen_groups, .weights = gates.group_weights});
  const std::int64_t first_token = ctx.batch.first_sequence * ctx.batch.sequence_length;
  if (ctx.on_gpu()) return cuda::deal_within_groups(cuda::stream_of(ctx), gates_of(gates), first_token);
  const std::int64_t H = gates.top_groups();
  const std::int64_t G = gates.groups();
  const std::int64_t M = gates.group_experts();
  const std::int64_t top_in_group = gates.top_in_group();
  // A group deals its experts on each time it is dealt itself, which is once in G dealt groups.
  for (std::int64_t i = 0; i < gates.chosen_groups.elements(); ++i) {
    const std::int64_t row = i / H * G + gates.chosen_groups.data<std::int32_t>()[i];
    const std::int64_t round = (first_token * H + i) / G;
    deal({.first = round * top_in_group,
          .experts_count = M,
          .top_k = top_in_group,
          .scores = gates.probabilities.data<float>() + row * M,
          .experts = gates.places.data<std::int32_t>() + row * top_in_group,
          .weights = gates.weights.data<float>() + row * top_in_group});
  }
}

void clear_unchosen_groups(Context& ctx, const HierarchicalGates& gates) {
  if (ctx.on_gpu()) return cuda::clear_unchosen_groups(cuda::stream_of(ctx), gates_of(gates));
  float* log_sum_exp = gates.log_sum_exp.data<float>();
  for (std::int64_t t = 0; t < gates.tokens(); ++t) {
    const auto chosen = gates.chosen_groups.rows(t, t + 1).values<std::int32_t>();
    for (std::int32_t g = 0; g < gates.groups(); ++g)
      if (std::ranges::find(chosen, g) == chosen.end()) log_sum_exp[t * gates.groups() + g] = 0;
  }
}

}  // namespace conclave
