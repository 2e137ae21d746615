#include "layers/moe/router/dense_router.h"

#include "layers/moe/router/padding.h"

namespace conclave {
namespace {

// With every expert chosen by every token, f[e] = 1 / E whatever the router does: the load-balance term is
// the constant alpha. The z-loss is all that remains.
config::Moe without_load_balance(config::Moe moe) {
  moe.set_balance_loss(0);
  return moe;
}

}  // namespace

DenseRouter::DenseRouter(const config::Experiment& experiment, const std::string& name)
    : routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      jitter_(experiment, name),
      gate_(name + ".weight", experiment.moe().experts(), experiment.model().d_model()),
      balance_loss_(without_load_balance(experiment.moe())),
      supervision_(experiment) {
  gate_.weight().initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing DenseRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const std::int64_t E = gate_.outputs();
  const SoftmaxChoice choice(ctx, T, E, E, routed_scale_);
  {
    const Arena::Mark scratch(*ctx.arena);
    const TensorView logits = ctx.arena->allocate({T, E});
    gate_.forward(ctx, x, logits);
    choice.choose(ctx, logits, statistics);
  }
  const TensorView experts = without_padding(ctx, choice.chosen);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    saved_ = {x, choice,
              balance_loss_.forward(ctx, choice.probabilities, experts, choice.log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, choice.probabilities, saved_.balance, statistics);
  }
  return {experts, choice.weights, choice.entropy};
}

TensorView DenseRouter::backward(Context& ctx, ConstTensorView dweights) {
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());
  const Arena::Mark scratch(*ctx.arena);
  const TensorView dlogits = ctx.arena->allocate(saved_.choice.probabilities.shape());  // [T, E]
  saved_.choice.backward(ctx, dweights, saved_.balance, dlogits);
  gate_.backward(ctx, saved_.x, dlogits, dx);
  jitter_.backward(ctx, dx);
  return dx;
}

void DenseRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&gate_.weight());
}

}  // namespace conclave
