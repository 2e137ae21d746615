#include "layers/moe/router/sigmoid_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/router/count_entropy.h"
#include "layers/moe/router/forced_balance.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/sigmoid_top_k/sigmoid_top_k.h"

namespace conclave {
namespace {

int sign(std::int64_t value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }

}  // namespace

SigmoidRouter::SigmoidRouter(const config::Experiment& experiment, const std::string& name)
    : top_k_(experiment.moe().top_k()),
      normalize_(experiment.moe().normalize_top_k()),
      routed_scale_(static_cast<float>(experiment.moe().routed_scale())),
      groups_{experiment.moe().expert_groups(), experiment.moe().top_groups()},
      force_balanced_(experiment.moe().force_balanced()),
      bias_update_rate_(experiment.moe().bias_update_rate()),
      jitter_(experiment, name),
      weight_(name + ".weight", {experiment.moe().experts(), experiment.model().d_model()}),
      bias_name_(name + ".bias"),
      bias_({experiment.moe().experts()}, DType::kFloat32),
      balance_loss_(experiment.moe()),
      supervision_(experiment),
      chosen_this_step_(static_cast<std::size_t>(experiment.moe().experts()), 0) {
  weight_.initialise_normal(experiment.run().seed(), router_init_std(experiment));
}

Routing SigmoidRouter::forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) {
  x = jitter_.forward(ctx, x);
  const std::int64_t T = x.extent(0);
  const std::int64_t E = weight_.value().extent(0);
  const TensorView logits = ctx.arena->allocate({T, E});
  const TensorView probabilities = ctx.arena->allocate({T, E});
  const TensorView chosen = ctx.arena->allocate({T, top_k_}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({T, top_k_});
  const TensorView log_sum_exp = ctx.arena->allocate({T});
  const TensorView entropy = ctx.arena->allocate({T});
  {
    const Arena::Mark scratch(*ctx.arena);
    gemm(ctx, {.a = x, .b = weight_.value(), .c = logits, .transpose_b = true});
    sigmoid_top_k(ctx, {.logits = logits,
                        .bias = ctx.on_gpu() ? bias_on_gpu_.view() : bias_.view(),
                        .normalize = normalize_,
                        .scale = routed_scale_,
                        .groups = groups_,
                        .probabilities = probabilities,
                        .experts = chosen,
                        .weights = weights,
                        .log_sum_exp = log_sum_exp,
                        .entropy = entropy});
    if (force_balanced_) deal(ctx, logits, probabilities, chosen, weights);
    for (const TensorView& of_tokens : {probabilities, weights, log_sum_exp, entropy})
      clear_padding(ctx, of_tokens);
    count_entropy(ctx, entropy, statistics);
  }
  const TensorView experts = without_padding(ctx, chosen);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    count_choices(ctx, experts);
    saved_ = {x,
              logits,
              probabilities,
              chosen,
              weights,
              log_sum_exp,
              balance_loss_.forward(ctx, probabilities, experts, log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, probabilities, saved_.balance, statistics);
  }
  return {experts, weights, entropy};
}

// Normalised weights are shares of s and so of p; without it they are s itself.
void SigmoidRouter::deal(Context& ctx, ConstTensorView logits, ConstTensorView probabilities,
                         TensorView experts, TensorView weights) const {
  const Arena::Mark scratch(*ctx.arena);
  ConstTensorView scores = probabilities;
  if (!normalize_) {
    const TensorView sigmoids = ctx.arena->allocate(logits.shape());
    if (ctx.on_gpu()) {
      cuda::sigmoids(cuda::stream_of(ctx), logits.data<float>(), sigmoids.data<float>(), logits.elements());
    } else {
      std::ranges::transform(logits.values<float>(), sigmoids.data<float>(),
                             [](float logit) { return 1 / (1 + std::exp(-logit)); });
    }
    scores = sigmoids;
  }
  deal_in_turn(ctx, {.scores = scores,
                     .normalize = normalize_,
                     .scale = routed_scale_,
                     .experts = experts,
                     .weights = weights});
}

TensorView SigmoidRouter::backward(Context& ctx, ConstTensorView dweights) {
  const TensorView dx = ctx.arena->allocate(saved_.x.shape());

  const Arena::Mark scratch(*ctx.arena);
  const TensorView dlogits = ctx.arena->allocate(saved_.logits.shape());
  sigmoid_top_k_backward(ctx, {.logits = saved_.logits,
                               .probabilities = saved_.probabilities,
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

void SigmoidRouter::renew_copies(Context& ctx) {
  const TensorView bias = bias_.view();
  if (bias_on_gpu_.view().raw() == nullptr)
    bias_on_gpu_ = Buffer(bias.shape(), bias.dtype(), ctx.gpu->device());
  ctx.gpu->staging().upload(bias_on_gpu_.view().raw(), bias.raw(),
                            static_cast<std::size_t>(bias.elements()) * size_of(bias.dtype()));
}

void SigmoidRouter::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&weight_);
}

void SigmoidRouter::collect_state(std::vector<ShardedTensor>& state) {
  const Shape shape = bias_.view().shape();
  state.push_back({bias_name_, shape, Sharding::kReplicated, {0, shape[0]}, bias_.view()});
}

void SigmoidRouter::count_choices(const Context& ctx, ConstTensorView experts) {
  if (ctx.recomputing) return;
  if (ctx.on_gpu()) return count_choices_on_gpu(ctx, experts);
  // A step that was skipped never came to its end: its counts are forgotten here.
  if (ctx.batch.micro_step == 0) std::ranges::fill(chosen_this_step_, 0);
  for (const std::int32_t expert : experts.values<std::int32_t>()) {
    if (expert != kNoExpert) ++chosen_this_step_[static_cast<std::size_t>(expert)];
  }
}

void SigmoidRouter::count_choices_on_gpu(const Context& ctx, ConstTensorView experts) {
  const cuda::Stream& stream = ctx.gpu->stream();
  const Shape shape{static_cast<std::int64_t>(chosen_this_step_.size())};
  if (chosen_this_step_on_gpu_.view().raw() == nullptr)
    chosen_this_step_on_gpu_ = Buffer(shape, DType::kInt64, stream.device());
  auto* counts = chosen_this_step_on_gpu_.view().data<std::int64_t>();
  if (ctx.batch.micro_step == 0)
    cuda::fill_with_zeros(stream, counts, chosen_this_step_.size() * sizeof(std::int64_t));
  cuda::count_choices(stream.handle(), experts.data<std::int32_t>(), experts.elements(),
                      std::max<std::int64_t>(experts.elements(), 1), shape[0], counts);
}

void SigmoidRouter::end_step(Context& ctx) {
  if (bias_update_rate_ == 0) return;
  if (chosen_this_step_on_gpu_.view().raw() != nullptr) {
    ctx.gpu->staging().download(chosen_this_step_.data(), chosen_this_step_on_gpu_.view().raw(),
                                chosen_this_step_.size() * sizeof(std::int64_t));
  }
  const std::span<std::int64_t> chosen(chosen_this_step_);
  {
    const Span span(ctx.clock, "sum of loads", TimePart::kReduction, ComparedCall::kReduction);
    ctx.grid->world().all_reduce(buffer_view(chosen)).wait();
  }

  const auto experts = static_cast<std::int64_t>(chosen.size());
  const std::int64_t all = std::accumulate(chosen.begin(), chosen.end(), std::int64_t{0});
  const std::span<float> bias = bias_.view().values<float>();
  double mean = 0;
  for (std::size_t e = 0; e < chosen.size(); ++e) {
    // Exactly the sign of mean(c) - c[e].
    bias[e] += static_cast<float>(bias_update_rate_ * sign(all - experts * chosen[e]));
    mean += bias[e] / static_cast<double>(experts);
  }
  for (float& value : bias) value = static_cast<float>(value - mean);
}

}  // namespace conclave
