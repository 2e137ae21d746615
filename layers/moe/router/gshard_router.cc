#include "layers/moe/router/gshard_router.h"

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"

namespace conclave {
namespace {

constexpr std::int64_t kTopK = 2;

}  // namespace

GshardRouter::GshardRouter(const config::Experiment& experiment, const std::string& name)
    : routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      force_balanced_(experiment.moe().force_balanced()),
      jitter_(experiment, name),
      gate_(name + ".weight", experiment.moe().experts(), experiment.model().d_model()),
      balance_loss_(experiment.moe()),
      supervision_(experiment),
      random_(experiment.run().seed(), name + "/second_choice") {
  CONCLAVE_CHECK_EQ(experiment.moe().top_k(), kTopK, "moe.top_k of the gshard router");
  gate_.weight().initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing GshardRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const SoftmaxChoice choice(ctx, T, gate_.outputs(), kTopK, routed_scale_);
  {
    const Arena::Mark scratch(*ctx.arena);
    const TensorView logits = ctx.arena->allocate({T, gate_.outputs()});
    gate_.forward(ctx, x, logits);
    choice.choose(ctx, logits, statistics);
  }
  if (force_balanced_) choice.deal(ctx);
  const Routing routing = keep(ctx, choice);
  supervision_.count_hits(ctx, routing.experts, statistics);
  if (ctx.training) {
    saved_ = {
        x, choice,
        balance_loss_.forward(ctx, choice.probabilities, routing.experts, choice.log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, choice.probabilities, saved_.balance, statistics);
  }
  return routing;
}

Routing GshardRouter::keep(Context& ctx, const SoftmaxChoice& choice) const {
  const std::int64_t T = choice.chosen.extent(0);
  const TensorView experts = ctx.arena->allocate({T, kTopK}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, kTopK});
  const std::int64_t first_token = ctx.batch.first_token_of_run();
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::keep_second_choices(cuda::stream_of(ctx), cuda::key_of(random_), first_token,
                              !ctx.training || force_balanced_, routed_scale_, cuda::padding_on_gpu(ctx),
                              choice.chosen.data<std::int32_t>(), choice.weights.data<float>(),
                              experts.data<std::int32_t>(), weights.data<float>(), T);
    return {experts, weights, choice.entropy};
  }
  const auto keeps_second = [&](std::int64_t t) {
    if (!ctx.training || force_balanced_) return true;
    const float g2 = choice.weights.data<float>()[t * kTopK + 1] / routed_scale_;
    return random_.uniform(static_cast<std::uint64_t>(first_token + t)) < 2 * g2;
  };
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t k = 0; k < kTopK; ++k) {
      const std::int64_t at = t * kTopK + k;
      const bool kept = !ctx.is_padding(t) && (k == 0 || keeps_second(t));
      experts.data<std::int32_t>()[at] = kept ? choice.chosen.data<std::int32_t>()[at] : kNoExpert;
      weights.data<float>()[at] = kept ? choice.weights.data<float>()[at] : 0.0F;
    }
  }
  return {experts, weights, choice.entropy};
}

// The weight that is left depends on both logits, whether or not the second expert was kept.
TensorView GshardRouter::backward(Context& ctx, ConstTensorView dweights) {
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());
  const Arena::Mark scratch(*ctx.arena);
  const TensorView dlogits = ctx.arena->allocate(saved_.choice.probabilities.shape());  // [T, E]
  saved_.choice.backward(ctx, dweights, saved_.balance, dlogits);
  gate_.backward(ctx, saved_.x, dlogits, dx);
  jitter_.backward(ctx, dx);
  return dx;
}

void GshardRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&gate_.weight());
}

}  // namespace conclave
