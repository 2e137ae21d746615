#include "layers/moe/router/expert_choice_router.h"

#include "layers/moe/router/count_entropy.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {
namespace {

config::Moe without_balance(config::Moe moe) {
  moe.set_balance_loss(0);
  return moe;
}

}  // namespace

ExpertChoiceRouter::ExpertChoiceRouter(const config::Experiment& experiment, const std::string& name)
    : config_(experiment.moe()),
      jitter_(experiment, name),
      weight_(name + ".weight", {experiment.moe().experts(), experiment.model().d_model()}),
      z_loss_(without_balance(experiment.moe())),
      supervision_(experiment) {
  weight_.initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing ExpertChoiceRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const std::int64_t E = weight_.value().extent(0);
  CONCLAVE_CHECK_EQ(T, ctx.batch.tokens(), "tokens of whole sequences, which expert choice is made in");
  const TensorView probabilities = ctx.arena->allocate({T, E});
  const TensorView experts = ctx.arena->allocate({T, E}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, E});
  const TensorView log_sum_exp = ctx.arena->allocate({T});
  const TensorView entropy = ctx.arena->allocate({T});
  {
    const Arena::Mark scratch(*ctx.arena);
    const TensorView logits = ctx.arena->allocate({T, E});
    gemm(ctx, {.a = x, .b = weight_.value(), .c = logits, .transpose_b = true});
    softmax_top_k(ctx, {.logits = logits,
                        .normalize = false,
                        .probabilities = probabilities,
                        .experts = ctx.arena->allocate({T, 1}, DType::kInt32),  // the tokens' own choice
                        .weights = ctx.arena->allocate({T, 1}),
                        .log_sum_exp = log_sum_exp,
                        .entropy = entropy});
    for (const TensorView& of_tokens : {probabilities, log_sum_exp, entropy}) clear_padding(ctx, of_tokens);
    count_entropy(ctx, entropy, statistics);
  }
  choose_tokens(ctx, config_, {.probabilities = probabilities, .experts = experts, .weights = weights});
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    saved_ = {x,       probabilities, experts,
              weights, log_sum_exp,   z_loss_.forward(ctx, probabilities, experts, log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, probabilities, saved_.terms, statistics);
  }
  return {experts, weights, entropy};
}

TensorView ExpertChoiceRouter::backward(Context& ctx, ConstTensorView dweights) {
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());

  const Arena::Mark scratch(*ctx.arena);
  const TensorView dlogits = ctx.arena->allocate(saved_.probabilities.shape());  // [T, E]
  softmax_top_k_backward(ctx, {.probabilities = saved_.probabilities,
                               .experts = saved_.experts,
                               .weights = saved_.weights,
                               .log_sum_exp = saved_.log_sum_exp,
                               .normalize = false,
                               .scale = static_cast<float>(config_.routed_scale()),
                               .dweights = dweights,
                               .dprobabilities = saved_.terms.dprobabilities,
                               .z_coefficient = saved_.terms.z_coefficient,
                               .dlogits = dlogits});
  gemm(ctx, {.a = dlogits, .b = weight_.value(), .c = dx});
  jitter_.backward(ctx, dx);
  gemm(ctx, {.a = dlogits, .b = saved_.x, .c = weight_.gradient(), .transpose_a = true, .accumulate = true});
  return dx;
}

void ExpertChoiceRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&weight_);
}

}  // namespace conclave
