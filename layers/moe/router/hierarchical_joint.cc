#include "layers/moe/router/hierarchical_joint.h"

#include <cmath>

#include "layers/cuda/arguments.h"

namespace conclave {

// -sum P ln P = entropy over groups + sum_g p[g] * entropy within g.
void joint_entropy(Context& ctx, const HierarchicalGates& gates, ConstTensorView group_entropy,
                   ConstTensorView entropy_within, TensorView entropy) {
  if (ctx.on_gpu()) {
    cuda::joint_entropy(cuda::stream_of(ctx), gates_of(gates), group_entropy.data<float>(),
                        entropy_within.data<float>(), entropy.data<float>());
    return;
  }
  const std::int64_t G = gates.groups();
  const float* p = gates.group_probabilities.data<float>();
  const float* within = entropy_within.data<float>();
  for (std::int64_t t = 0; t < gates.tokens(); ++t) {
    double sum = group_entropy.data<float>()[t];
    for (std::int64_t i = t * G; i < (t + 1) * G; ++i)
      sum += p[i] > 0 ? static_cast<double>(p[i]) * within[i] : 0;
    entropy.data<float>()[t] = static_cast<float>(sum);
  }
}

void join_gates(Context& ctx, const HierarchicalGates& gates, TensorView joint, TensorView log_sum_exp) {
  if (ctx.on_gpu()) {
    cuda::join_gates(cuda::stream_of(ctx), gates_of(gates), joint.data<float>(), log_sum_exp.data<float>());
    return;
  }
  const std::int64_t G = gates.groups();
  const std::int64_t M = gates.group_experts();
  for (std::int64_t t = 0; t < gates.tokens(); ++t) {
    const float of_groups = gates.group_log_sum_exp.data<float>()[t];
    float squares = of_groups * of_groups;
    for (std::int64_t row = t * G; row < (t + 1) * G; ++row) {
      const float group_probability = gates.group_probabilities.data<float>()[row];
      for (std::int64_t i = row * M; i < (row + 1) * M; ++i)
        joint.data<float>()[i] = group_probability * gates.probabilities.data<float>()[i];
      const float within = gates.log_sum_exp.data<float>()[row];
      squares += within * within;
    }
    log_sum_exp.data<float>()[t] = std::sqrt(squares);
  }
}

GateGradients join_gates_backward(Context& ctx, const HierarchicalGates& gates, ConstTensorView djoint) {
  const std::int64_t T = gates.tokens();
  const std::int64_t G = gates.groups();
  const std::int64_t M = gates.group_experts();
  if (T == 0 || djoint.elements() == 0) return {};
  const GateGradients gradients{.group = ctx.arena->allocate(gates.group_probabilities.shape()),
                                .within = ctx.arena->allocate(gates.probabilities.shape())};
  const std::int64_t tokens_a_row = T / djoint.extent(0);
  if (ctx.on_gpu()) {
    cuda::join_gates_backward(cuda::stream_of(ctx), gates_of(gates), djoint.data<float>(), tokens_a_row,
                              gradients.group.data<float>(), gradients.within.data<float>());
    return gradients;
  }
  for (std::int64_t row = 0; row < T * G; ++row) {  // of group g of token t
    const std::int64_t t = row / G;
    const std::int64_t g = row % G;
    const float* dp = djoint.data<float>() + (t / tokens_a_row * G + g) * M;
    const float* within = gates.probabilities.data<float>() + row * M;
    const float group_probability = gates.group_probabilities.data<float>()[row];
    float sum = 0;
    for (std::int64_t m = 0; m < M; ++m) {
      sum += dp[m] * within[m];
      gradients.within.data<float>()[row * M + m] = dp[m] * group_probability;
    }
    gradients.group.data<float>()[row] = sum;
  }
  return gradients;
}

}  // namespace conclave
