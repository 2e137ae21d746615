#include "layers/moe/router/noisy_top_k_router.h"

#include <algorithm>
#include <cmath>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/router/padding.h"
#include "layers/moe/router/smooth_load.h"
#include "layers/ops/fill_zeros.h"

namespace conclave {
namespace {

constexpr float kSmallestDeviation = 0.01F;

float softplus(float x) { return std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x))); }
float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

NoisyTopKRouter::NoisyTopKRouter(const config::Experiment& experiment, const std::string& name)
    : top_k_(experiment.moe().top_k()),
      routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      force_balanced_(experiment.moe().force_balanced()),
      jitter_(experiment, name),
      gate_(name + ".weight", experiment.moe().experts(), experiment.model().d_model()),
      noise_gate_(name + ".noise_weight", experiment.moe().experts(), experiment.model().d_model()),
      balance_loss_(experiment.moe()),
      supervision_(experiment),
      variation_loss_(experiment.moe()),
      random_(experiment.run().seed(), name + "/noise") {
  gate_.weight().initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing NoisyTopKRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const std::int64_t E = gate_.outputs();
  const SoftmaxChoice choice(ctx, T, E, top_k_, routed_scale_);
  Logits logits;
  if (ctx.training) {
    logits = noisy_logits(ctx, x);
    choice.choose(ctx, logits.noisy, statistics);
  } else {
    const Arena::Mark scratch(*ctx.arena);
    const TensorView clean = ctx.arena->allocate({T, E});
    gate_.forward(ctx, x, clean);
    choice.choose(ctx, clean, statistics);
  }
  if (force_balanced_) choice.deal(ctx);
  const TensorView experts = without_padding(ctx, choice.chosen);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    saved_ = {x, logits, choice,
              balance_loss_.forward(ctx, choice.probabilities, experts, choice.log_sum_exp, statistics),
              variation(ctx, logits, choice, experts, statistics)};
    supervision_.add_gradient(ctx, choice.probabilities, saved_.balance, statistics);
  }
  return {experts, choice.weights, choice.entropy};
}

NoisyTopKRouter::Logits NoisyTopKRouter::noisy_logits(Context& ctx, ConstTensorView x) const {
  const std::int64_t T = x.extent(0);
  const std::int64_t E = gate_.outputs();
  const auto allocate = [&] { return ctx.arena->allocate({T, E}); };
  const Logits logits{.clean = allocate(),
                      .noise = allocate(),
                      .spread = allocate(),
                      .deviation = allocate(),
                      .noisy = allocate()};
  gate_.forward(ctx, x, logits.clean);
  noise_gate_.forward(ctx, x, logits.spread);
  const std::int64_t first = ctx.batch.first_token_of_run() * E;
  if (ctx.on_gpu()) {
    cuda::noisy_logits(cuda::stream_of(ctx), cuda::key_of(random_), first,
                       {.clean = logits.clean.data<float>(),
                        .spread = logits.spread.data<float>(),
                        .noise = logits.noise.data<float>(),
                        .deviation = logits.deviation.data<float>(),
                        .noisy = logits.noisy.data<float>()},
                       T * E);
    return logits;
  }
  const float* clean = logits.clean.data<float>();
  const float* spread = logits.spread.data<float>();
  float* noise = logits.noise.data<float>();
  float* deviation = logits.deviation.data<float>();
  float* noisy = logits.noisy.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < T * E; ++i) {
    noise[i] = random_.normal(static_cast<std::uint64_t>(first + i));
    deviation[i] = softplus(spread[i]) + kSmallestDeviation;
    noisy[i] = clean[i] + noise[i] * deviation[i];
  }
  return logits;
}

VariationGradient NoisyTopKRouter::variation(Context& ctx, const Logits& logits, const SoftmaxChoice& choice,
                                             ConstTensorView experts, MoeStatistics& statistics) const {
  const std::int64_t T = experts.extent(0);
  const std::int64_t E = gate_.outputs();
  const TensorView load = ctx.arena->allocate({variation_loss_.has_load() ? T : 0, E});
  if (variation_loss_.has_load()) {
    smooth_load(ctx,
                {.clean = logits.clean,
                 .noisy = logits.noisy,
                 .deviation = logits.deviation,
                 .chosen = choice.chosen},
                load);
  }
  // The weights are routed_scale * g; CV^2 doesn't feel a common factor.
  return variation_loss_.forward(ctx, experts, choice.weights, load, statistics);
}

TensorView NoisyTopKRouter::backward(Context& ctx, ConstTensorView dweights) {
  const Logits& logits = saved_.logits;
  const Shape shape = logits.clean.shape();
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());
  const Arena::Mark scratch(*ctx.arena);

  const TensorView dnoisy = ctx.arena->allocate(shape);   // [T, E]
  const TensorView dclean = ctx.arena->allocate(shape);   // [T, E]
  const TensorView dspread = ctx.arena->allocate(shape);  // [T, E]
  saved_.choice.backward(ctx, with_importance(ctx, dweights), saved_.balance, dnoisy);
  if (variation_loss_.has_load()) {
    smooth_load_backward(ctx,
                         {.clean = logits.clean,
                          .noisy = logits.noisy,
                          .deviation = logits.deviation,
                          .chosen = saved_.choice.chosen},
                         saved_.variation.dload, {.dclean = dclean, .dnoisy = dnoisy, .ddeviation = dspread});
  } else {
    fill_zeros(ctx, dclean);
    fill_zeros(ctx, dspread);
  }
  noise_backward(ctx, dnoisy, dclean, dspread);
  gate_.backward(ctx, saved_.x, dclean, dx);
  noise_gate_.backward(ctx, saved_.x, dspread, dx, /*accumulate=*/true);
  jitter_.backward(ctx, dx);
  return dx;
}

// noisy = clean + noise * deviation; the slope of softplus is the sigmoid.
void NoisyTopKRouter::noise_backward(const Context& ctx, ConstTensorView dnoisy, TensorView dclean,
                                     TensorView dspread) const {
  const Logits& logits = saved_.logits;
  const std::int64_t count = dnoisy.elements();
  if (ctx.on_gpu()) {
    return cuda::noisy_logits_backward(cuda::stream_of(ctx), logits.noise.data<float>(),
                                       logits.spread.data<float>(), dnoisy.data<float>(),
                                       dclean.data<float>(), dspread.data<float>(), count);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float d = dnoisy.data<float>()[i];
    dclean.data<float>()[i] += d;
    dspread.data<float>()[i] = (dspread.data<float>()[i] + d * logits.noise.data<float>()[i]) *
                               sigmoid(logits.spread.data<float>()[i]);
  }
}

ConstTensorView NoisyTopKRouter::with_importance(Context& ctx, ConstTensorView dweights) const {
  const ConstTensorView dgates = saved_.variation.dgates;  // [A, E]
  if (dgates.elements() == 0 || dweights.elements() == 0) return dweights;
  const TensorView sum = ctx.arena->allocate(dweights.shape());
  const std::int64_t tokens_a_set = dweights.extent(0) / dgates.extent(0);
  if (ctx.on_gpu()) {
    cuda::add_importance(cuda::stream_of(ctx), dweights.data<float>(), dgates.data<float>(),
                         saved_.choice.chosen.data<std::int32_t>(), sum.data<float>(), tokens_a_set,
                         dweights.extent(0), top_k_, dgates.extent(1));
    return sum;
  }
  for (std::int64_t choice = 0; choice < dweights.elements(); ++choice) {
    const std::int64_t set = choice / top_k_ / tokens_a_set;
    const std::int64_t expert = saved_.choice.chosen.data<std::int32_t>()[choice];
    sum.data<float>()[choice] =
        dweights.data<float>()[choice] + dgates.data<float>()[set * dgates.extent(1) + expert];
  }
  return sum;
}

void NoisyTopKRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&gate_.weight());
  parameters.push_back(&noise_gate_.weight());
}

}  // namespace conclave
