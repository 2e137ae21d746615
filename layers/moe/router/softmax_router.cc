#include "layers/moe/router/softmax_router.h"

#include "layers/moe/router/count_entropy.h"
#include "layers/moe/router/forced_balance.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {

SoftmaxRouter::SoftmaxRouter(const config::Experiment& experiment, const std::string& name)
    : top_k_(experiment.moe().top_k()),
      normalize_(experiment.moe().normalize_top_k()),
      routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      groups_{experiment.moe().expert_groups(), experiment.moe().top_groups()},
      jitter_(experiment, name),
      force_balanced_(experiment.moe().force_balanced()),
      weight_(name + ".weight", {experiment.moe().experts(), experiment.model().d_model()}),
      balance_loss_(experiment.moe()),
      supervision_(experiment) {
  weight_.initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing SoftmaxRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const std::int64_t E = weight_.value().extent(0);
  const TensorView probabilities = ctx.arena->allocate({T, E});
  const TensorView chosen = ctx.arena->allocate({T, top_k_}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, top_k_});
  const TensorView log_sum_exp = ctx.arena->allocate({T});
  const TensorView entropy = ctx.arena->allocate({T});
  {
    const Arena::Mark scratch(*ctx.arena);
    const TensorView logits = ctx.arena->allocate({T, E});
    gemm(ctx, {.a = x, .b = weight_.value(), .c = logits, .transpose_b = true});
    softmax_top_k(ctx, {.logits = logits,
                        .normalize = normalize_,
                        .scale = routed_scale_,
                        .groups = groups_,
                        .probabilities = probabilities,
                        .experts = chosen,
                        .weights = weights,
                        .log_sum_exp = log_sum_exp,
                        .entropy = entropy});
    if (force_balanced_) {
      deal_in_turn(ctx, {.scores = probabilities,
                         .normalize = normalize_,
                         .scale = routed_scale_,
                         .experts = chosen,
                         .weights = weights});
    }
    for (const TensorView& of_tokens : {probabilities, weights, log_sum_exp, entropy})
      clear_padding(ctx, of_tokens);
    count_entropy(ctx, entropy, statistics);
  }
  const TensorView experts = without_padding(ctx, chosen);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    saved_ = {x,           probabilities,
              chosen,      weights,
              log_sum_exp, balance_loss_.forward(ctx, probabilities, experts, log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, probabilities, saved_.balance, statistics);
  }
  return {experts, weights, entropy};
}

TensorView SoftmaxRouter::backward(Context& ctx, ConstTensorView dweights) {
  const std::int64_t T = saved_.x.extent(0);
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());

  const Arena::Mark scratch(*ctx.arena);
  const TensorView dlogits = ctx.arena->allocate({T, weight_.value().extent(0)});
  softmax_top_k_backward(ctx, {.probabilities = saved_.probabilities,
                               .experts = saved_.experts,
                               .weights = saved_.weights,
                               .log_sum_exp = saved_.log_sum_exp,
                               .normalize = normalize_,
                               .scale = routed_scale_,
                               .dweights = dweights,
                               .dprobabilities = saved_.balance.dprobabilities,
                               .z_coefficient = saved_.balance.z_coefficient,
                               .dlogits = dlogits});
  gemm(ctx, {.a = dlogits, .b = weight_.value(), .c = dx});
  jitter_.backward(ctx, dx);
  gemm(ctx, {.a = dlogits, .b = saved_.x, .c = weight_.gradient(), .transpose_a = true, .accumulate = true});
  return dx;
}

void SoftmaxRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&weight_);
}

}  // namespace conclave
