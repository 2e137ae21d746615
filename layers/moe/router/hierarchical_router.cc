#include "layers/moe/router/hierarchical_router.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "layers/moe/router/forced_balance.h"
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
  const Gates gates = open_gates(ctx, x, statistics);
  const TensorView order = ctx.arena->allocate({x.extent(0), top_groups_ * top_in_group_}, DType::kInt32);
  const Routing routing = multiply_weights(ctx, gates, order);
  supervision_.count_hits(ctx, routing.experts, statistics);
  if (ctx.training) saved_ = {x, order, gates, balance(ctx, gates, routing.experts, statistics)};
  return routing;
}

HierarchicalRouter::Gates HierarchicalRouter::open_gates(Context& ctx, ConstTensorView x,
                                                         MoeStatistics& statistics) const {
  const std::int64_t T = x.extent(0);
  const std::int64_t G = groups_;
  const std::int64_t M = group_experts_;
  const Gates gates{.group_probabilities = ctx.arena->allocate({T, G}),
                    .groups = ctx.arena->allocate({T, top_groups_}, DType::kInt32),
                    .group_weights = ctx.arena->allocate({T, top_groups_}),
                    .group_log_sum_exp = ctx.arena->allocate({T}),
                    .probabilities = ctx.arena->allocate({T * G, M}),
                    .places = ctx.arena->allocate({T * G, top_in_group_}, DType::kInt32),
                    .weights = ctx.arena->allocate({T * G, top_in_group_}),
                    .log_sum_exp = ctx.arena->allocate({T * G}),
                    .entropy = ctx.arena->allocate({T})};

  const Arena::Mark scratch(*ctx.arena);
  const TensorView group_logits = ctx.arena->allocate({T, G});
  const TensorView logits = ctx.arena->allocate({T, G * M});
  const TensorView group_entropy = ctx.arena->allocate({T});
  const TensorView entropy_within = ctx.arena->allocate({T * G});
  group_gate_.forward(ctx, x, group_logits);
  gate_.forward(ctx, x, logits);
  softmax_top_k(ctx, {.logits = group_logits,
                      .probabilities = gates.group_probabilities,
                      .experts = gates.groups,
                      .weights = gates.group_weights,
                      .log_sum_exp = gates.group_log_sum_exp,
                      .entropy = group_entropy});
  softmax_top_k(ctx, {.logits = logits.reshaped({T * G, M}),
                      .probabilities = gates.probabilities,
                      .experts = gates.places,
                      .weights = gates.weights,
                      .log_sum_exp = gates.log_sum_exp,
                      .entropy = entropy_within});
  if (force_balanced_) deal(ctx, gates);
  for (const TensorView& of_tokens :
       {gates.group_probabilities, gates.group_weights, gates.group_log_sum_exp, group_entropy,
        gates.probabilities.reshaped({T, G * M}), gates.weights.reshaped({T, G * top_in_group_}),
        gates.log_sum_exp.reshaped({T, G})})
    clear_padding(ctx, of_tokens);

  // Of the joint distribution P: -sum P ln P = entropy over groups + sum_g p[g] * entropy within g.
  const float* p = gates.group_probabilities.data<float>();
  const float* within = entropy_within.data<float>();
  for (std::int64_t t = 0; t < T; ++t) {
    double entropy = group_entropy.data<float>()[t];
    for (std::int64_t i = t * G; i < (t + 1) * G; ++i)
      entropy += p[i] > 0 ? static_cast<double>(p[i]) * within[i] : 0;
    gates.entropy.data<float>()[t] = static_cast<float>(entropy);
    statistics.router_entropy_sum += entropy;
  }

  float* log_sum_exp = gates.log_sum_exp.data<float>();
  for (std::int64_t t = 0; t < T; ++t) {
    const auto chosen = gates.groups.rows(t, t + 1).values<std::int32_t>();
    for (std::int32_t g = 0; g < G; ++g)
      if (std::ranges::find(chosen, g) == chosen.end()) log_sum_exp[t * G + g] = 0;
  }
  return gates;
}

void HierarchicalRouter::deal(Context& ctx, const Gates& gates) const {
  deal_in_turn(
      ctx, {.scores = gates.group_probabilities, .experts = gates.groups, .weights = gates.group_weights});
  // A group deals its experts on each time it is dealt itself, which is once in G dealt groups.
  const std::int64_t first_token = ctx.batch.first_sequence * ctx.batch.sequence_length;
  for (std::int64_t i = 0; i < gates.groups.elements(); ++i) {
    const std::int64_t row = i / top_groups_ * groups_ + gates.groups.data<std::int32_t>()[i];
    const std::int64_t round = (first_token * top_groups_ + i) / groups_;
    conclave::deal({.first = round * top_in_group_,
                    .experts_count = group_experts_,
                    .top_k = top_in_group_,
                    .scores = gates.probabilities.data<float>() + row * group_experts_,
                    .experts = gates.places.data<std::int32_t>() + row * top_in_group_,
                    .weights = gates.weights.data<float>() + row * top_in_group_});
  }
}

Routing HierarchicalRouter::multiply_weights(Context& ctx, const Gates& gates, TensorView order) const {
  const std::int64_t T = order.extent(0);
  const std::int64_t K = order.extent(1);
  const TensorView experts = ctx.arena->allocate({T, K}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, K});

  const Arena::Mark scratch(*ctx.arena);
  const TensorView products = ctx.arena->allocate({K});
  const TensorView ids = ctx.arena->allocate({K}, DType::kInt32);
  float* product = products.data<float>();
  std::int32_t* id = ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t i = 0; i < K; ++i) {
      const std::int64_t h = i / top_in_group_;
      const std::int64_t group = gates.groups.data<std::int32_t>()[t * top_groups_ + h];
      const std::int64_t within = (t * groups_ + group) * top_in_group_ + i % top_in_group_;
      product[i] = routed_scale_ * gates.group_weights.data<float>()[t * top_groups_ + h] *
                   gates.weights.data<float>()[within];
      id[i] = static_cast<std::int32_t>(group * group_experts_) + gates.places.data<std::int32_t>()[within];
    }
    // Insertion: descending weight, ties to the lower id. Comparisons with NaN are false, so NaN never breaks
    // the order.
    std::int32_t* order_of_token = order.data<std::int32_t>() + t * K;
    for (std::int32_t i = 0; i < K; ++i) {
      std::int64_t place = i;
      const auto goes_before = [&](std::int32_t other) {
        return product[i] > product[other] || (product[i] == product[other] && id[i] < id[other]);
      };
      for (; place > 0 && goes_before(order_of_token[place - 1]); --place)
        order_of_token[place] = order_of_token[place - 1];
      order_of_token[place] = i;
    }
    const bool is_padding = ctx.is_padding(t);
    for (std::int64_t k = 0; k < K; ++k) {
      experts.data<std::int32_t>()[t * K + k] = is_padding ? kNoExpert : id[order_of_token[k]];
      weights.data<float>()[t * K + k] = product[order_of_token[k]];
    }
  }
  return {experts, weights, gates.entropy};
}

BalanceGradient HierarchicalRouter::balance(Context& ctx, const Gates& gates, ConstTensorView experts,
                                            MoeStatistics& statistics) {
  const std::int64_t T = experts.extent(0);
  const std::int64_t E = groups_ * group_experts_;
  const TensorView joint = ctx.arena->allocate({T, E});  // P
  // The z-loss takes one number a token: the root of the sum of the squares of its gates.
  const TensorView log_sum_exp = ctx.arena->allocate({T});
  for (std::int64_t t = 0; t < T; ++t) {
    const float of_groups = gates.group_log_sum_exp.data<float>()[t];
    float squares = of_groups * of_groups;
    for (std::int64_t g = 0; g < groups_; ++g) {
      const std::int64_t row = t * groups_ + g;
      const float group_probability = gates.group_probabilities.data<float>()[row];
      for (std::int64_t m = 0; m < group_experts_; ++m) {
        const std::int64_t at = row * group_experts_ + m;
        joint.data<float>()[at] = group_probability * gates.probabilities.data<float>()[at];
      }
      const float within = gates.log_sum_exp.data<float>()[row];
      squares += within * within;
    }
    log_sum_exp.data<float>()[t] = std::sqrt(squares);
  }
  BalanceGradient terms = balance_loss_.forward(ctx, joint, experts, log_sum_exp, statistics);
  supervision_.add_gradient(ctx, joint, terms, statistics);
  return terms;
}

TensorView HierarchicalRouter::backward(Context& ctx, ConstTensorView dweights) {
  const Gates& gates = saved_.gates;
  const std::int64_t T = saved_.x.extent(0);
  const std::int64_t G = groups_;
  const std::int64_t M = group_experts_;
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());

  const Arena::Mark scratch(*ctx.arena);
  const GateGradients of_weights = weights_backward(ctx, dweights);
  const GateGradients of_probabilities = joint_backward(ctx);
  const TensorView dgroup_logits = ctx.arena->allocate({T, G});
  const TensorView dlogits = ctx.arena->allocate({T, G * M});
  softmax_top_k_backward(ctx, {.probabilities = gates.group_probabilities,
                               .experts = gates.groups,
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

// weight = scale * a * b.
HierarchicalRouter::GateGradients HierarchicalRouter::weights_backward(Context& ctx,
                                                                       ConstTensorView dweights) const {
  const Gates& gates = saved_.gates;
  const std::int64_t K = dweights.extent(1);
  const GateGradients gradients{.group = ctx.arena->allocate(gates.group_weights.shape()),
                                .within = ctx.arena->allocate(gates.weights.shape())};
  std::ranges::fill(gradients.group.values<float>(), 0.0F);
  std::ranges::fill(gradients.within.values<float>(), 0.0F);
  for (std::int64_t choice = 0; choice < dweights.elements(); ++choice) {
    const std::int64_t t = choice / K;
    const std::int64_t place = saved_.order.data<std::int32_t>()[choice];
    const std::int64_t of_group = t * top_groups_ + place / top_in_group_;
    const std::int64_t group = gates.groups.data<std::int32_t>()[of_group];
    const std::int64_t within = (t * groups_ + group) * top_in_group_ + place % top_in_group_;
    const float dproduct = routed_scale_ * dweights.data<float>()[choice];
    gradients.group.data<float>()[of_group] += dproduct * gates.weights.data<float>()[within];
    gradients.within.data<float>()[within] = dproduct * gates.group_weights.data<float>()[of_group];
  }
  return gradients;
}

// P = p(group) * p(within the group).
HierarchicalRouter::GateGradients HierarchicalRouter::joint_backward(Context& ctx) const {
  const ConstTensorView djoint = saved_.balance.dprobabilities;  // [A, E]
  const Gates& gates = saved_.gates;
  const std::int64_t T = saved_.x.extent(0);
  if (T == 0 || djoint.elements() == 0) return {};
  const GateGradients gradients{.group = ctx.arena->allocate(gates.group_probabilities.shape()),
                                .within = ctx.arena->allocate(gates.probabilities.shape())};
  const std::int64_t tokens_a_row = T / djoint.extent(0);
  for (std::int64_t row = 0; row < T * groups_; ++row) {  // of group g of token t
    const std::int64_t t = row / groups_;
    const std::int64_t g = row % groups_;
    const float* dp = djoint.data<float>() + (t / tokens_a_row * groups_ + g) * group_experts_;
    const float* within = gates.probabilities.data<float>() + row * group_experts_;
    const float group_probability = gates.group_probabilities.data<float>()[row];
    float sum = 0;
    for (std::int64_t m = 0; m < group_experts_; ++m) {
      sum += dp[m] * within[m];
      gradients.within.data<float>()[row * group_experts_ + m] = dp[m] * group_probability;
    }
    gradients.group.data<float>()[row] = sum;
  }
  return gradients;
}

void HierarchicalRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&group_gate_.weight());
  parameters.push_back(&gate_.weight());
}

}  // namespace conclave
