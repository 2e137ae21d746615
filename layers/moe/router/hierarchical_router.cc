#include "layers/moe/router/hierarchical_router.h"

#include "layers/moe/router/count_entropy.h"
#include "layers/moe/router/hierarchical_joint.h"
#include "layers/moe/router/hierarchical_weights.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {

HierarchicalRouter::HierarchicalRouter(const config::Experiment& experiment, const std::string& name)
    : groups_(experiment.moe().expert_groups()),
      top_groups_(experiment.moe().top_groups()),
      group_experts_(experiment.moe().experts() / groups_),
      top_in_group_(experiment.moe().top_k() / top_groups_),
      routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      force_balanced_(experiment.moe().force_balanced()),
      jitter_(experiment, name),
      group_gate_(name + ".group_weight", groups_, experiment.model().d_model()),
      gate_(name + ".weight", experiment.moe().experts(), experiment.model().d_model()),
      balance_loss_(experiment.moe()),
      supervision_(experiment) {
  CONCLAVE_CHECK_EQ(groups_ * group_experts_, experiment.moe().experts(), "experts in equal groups");
  CONCLAVE_CHECK_EQ(top_groups_ * top_in_group_, experiment.moe().top_k(), "choices in equal parts a group");
  for (LinearGate* gate : {&group_gate_, &gate_})
    gate->weight().initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing HierarchicalRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const TensorView entropy = ctx.arena->allocate({x.extent(0)});
  const HierarchicalGates gates = open_gates(ctx, x, entropy);
  count_entropy(ctx, entropy, statistics);
  const Shape shape{x.extent(0), top_groups_ * top_in_group_};  // [T, K]
  const TensorView order = ctx.arena->allocate(shape, DType::kInt32);
  const TensorView chosen = ctx.arena->allocate(shape, DType::kInt32);
  const TensorView weights = ctx.arena->allocate(shape);
  multiply_weights(ctx, gates,
                   {.scale = routed_scale_, .order = order, .experts = chosen, .weights = weights});
  const TensorView experts = without_padding(ctx, chosen);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) saved_ = {x, order, gates, balance(ctx, gates, experts, statistics)};
  return {experts, weights, entropy};
}

HierarchicalGates HierarchicalRouter::open_gates(Context& ctx, ConstTensorView x, TensorView entropy) const {
  const std::int64_t T = x.extent(0);
  const std::int64_t G = groups_;
  const std::int64_t M = group_experts_;
  const HierarchicalGates gates{.group_probabilities = ctx.arena->allocate({T, G}),
                                .chosen_groups = ctx.arena->allocate({T, top_groups_}, DType::kInt32),
                                .group_weights = ctx.arena->allocate({T, top_groups_}),
                                .group_log_sum_exp = ctx.arena->allocate({T}),
                                .probabilities = ctx.arena->allocate({T * G, M}),
                                .places = ctx.arena->allocate({T * G, top_in_group_}, DType::kInt32),
                                .weights = ctx.arena->allocate({T * G, top_in_group_}),
                                .log_sum_exp = ctx.arena->allocate({T * G})};

  const Arena::Mark scratch(*ctx.arena);
  const TensorView group_logits = ctx.arena->allocate({T, G});
  const TensorView logits = ctx.arena->allocate({T, G * M});
  const TensorView group_entropy = ctx.arena->allocate({T});
  const TensorView entropy_within = ctx.arena->allocate({T * G});
  group_gate_.forward(ctx, x, group_logits);
  gate_.forward(ctx, x, logits);
  softmax_top_k(ctx, {.logits = group_logits,
                      .probabilities = gates.group_probabilities,
                      .experts = gates.chosen_groups,
                      .weights = gates.group_weights,
                      .log_sum_exp = gates.group_log_sum_exp,
                      .entropy = group_entropy});
  softmax_top_k(ctx, {.logits = logits.reshaped({T * G, M}),
                      .probabilities = gates.probabilities,
                      .experts = gates.places,
                      .weights = gates.weights,
                      .log_sum_exp = gates.log_sum_exp,
                      .entropy = entropy_within});
  if (force_balanced_) deal_gates(ctx, gates);
  for (const TensorView& of_tokens :
       {gates.group_probabilities, gates.group_weights, gates.group_log_sum_exp, group_entropy,
        gates.probabilities.reshaped({T, G * M}), gates.weights.reshaped({T, G * top_in_group_}),
        gates.log_sum_exp.reshaped({T, G})})
    clear_padding(ctx, of_tokens);
  joint_entropy(ctx, gates, group_entropy, entropy_within, entropy);
  clear_unchosen_groups(ctx, gates);
  return gates;
}

BalanceGradient HierarchicalRouter::balance(Context& ctx, const HierarchicalGates& gates,
                                            ConstTensorView experts, MoeStatistics& statistics) {
  const std::int64_t T = experts.extent(0);
  const TensorView joint = ctx.arena->allocate({T, gates.groups() * gates.group_experts()});
  const TensorView log_sum_exp = ctx.arena->allocate({T});
  join_gates(ctx, gates, joint, log_sum_exp);
  BalanceGradient terms = balance_loss_.forward(ctx, joint, experts, log_sum_exp, statistics);
  supervision_.add_gradient(ctx, joint, terms, statistics);
  return terms;
}

TensorView HierarchicalRouter::backward(Context& ctx, ConstTensorView dweights) {
  const HierarchicalGates& gates = saved_.gates;
  const std::int64_t T = saved_.x.extent(0);
  const std::int64_t G = groups_;
  const std::int64_t M = group_experts_;
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());

  const Arena::Mark scratch(*ctx.arena);
  const GateGradients of_weights =
      multiply_weights_backward(ctx, gates, routed_scale_, saved_.order, dweights);
  const GateGradients of_probabilities = join_gates_backward(ctx, gates, saved_.balance.dprobabilities);
  const TensorView dgroup_logits = ctx.arena->allocate({T, G});
  const TensorView dlogits = ctx.arena->allocate({T, G * M});
  softmax_top_k_backward(ctx, {.probabilities = gates.group_probabilities,
                               .experts = gates.chosen_groups,
                               .weights = gates.group_weights,
                               .log_sum_exp = gates.group_log_sum_exp,
                               .dweights = of_weights.group,
                               .dprobabilities = of_probabilities.group,
                               .z_coefficient = saved_.balance.z_coefficient,
                               .dlogits = dgroup_logits});
  softmax_top_k_backward(ctx, {.probabilities = gates.probabilities,
                               .experts = gates.places,
                               .weights = gates.weights,
                               .log_sum_exp = gates.log_sum_exp,
                               .dweights = of_weights.within,
                               .dprobabilities = of_probabilities.within,
                               .z_coefficient = saved_.balance.z_coefficient,
                               .dlogits = dlogits.reshaped({T * G, M})});
  group_gate_.backward(ctx, saved_.x, dgroup_logits, dx);
  gate_.backward(ctx, saved_.x, dlogits, dx, /*accumulate=*/true);
  jitter_.backward(ctx, dx);
  return dx;
}

void HierarchicalRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&group_gate_.weight());
  parameters.push_back(&gate_.weight());
}

}  // namespace conclave
