#include "layers/moe/router/expert_choice_router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "layers/moe/dispatch_plan.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {
namespace {

config::Moe without_balance(config::Moe moe) {
  moe.set_balance_loss(0);
  return moe;
}

// NaN would break the order; the trainer sees it in the loss.
float comparable(float probability) {
  return std::isnan(probability) ? -std::numeric_limits<float>::infinity() : probability;
}

}  // namespace

std::int64_t expert_choice_capacity(const config::Moe& moe, std::int64_t tokens) {
  return std::min(tokens, expert_capacity(moe.capacity_factor(), tokens, moe.top_k(), moe.experts()));
}

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
    for (const float value : entropy.values<float>()) statistics.router_entropy_sum += value;
  }
  choose(ctx, probabilities, experts, weights);
  supervision_.count_hits(ctx, experts, statistics);
  if (ctx.training) {
    saved_ = {x,       probabilities, experts,
              weights, log_sum_exp,   z_loss_.forward(ctx, probabilities, experts, log_sum_exp, statistics)};
    supervision_.add_gradient(ctx, probabilities, saved_.terms, statistics);
  }
  return {experts, weights, entropy};
}

void ExpertChoiceRouter::choose(Context& ctx, ConstTensorView probabilities, TensorView experts,
                                TensorView weights) const {
  const std::int64_t S = ctx.batch.sequence_length;
  const std::int64_t E = probabilities.extent(1);
  const float* p = probabilities.data<float>();
  std::int32_t* chosen = experts.data<std::int32_t>();
  std::ranges::fill(experts.values<std::int32_t>(), kNoExpert);

  const Arena::Mark scratch(*ctx.arena);
  const TensorView all_candidates = ctx.arena->allocate({ctx.batch.sequences, S}, DType::kInt32);
#pragma omp parallel for schedule(static)
  for (std::int64_t sequence = 0; sequence < ctx.batch.sequences; ++sequence) {
    std::int32_t* const begin = all_candidates.data<std::int32_t>() + sequence * S;
    std::int32_t* end = begin;
    for (std::int64_t t = sequence * S; t < (sequence + 1) * S; ++t) {
      if (!ctx.is_padding(t)) *end++ = static_cast<std::int32_t>(t);
    }
    const std::int64_t capacity = expert_choice_capacity(config_, end - begin);
    for (std::int64_t e = 0; e < E; ++e) {
      std::nth_element(begin, begin + capacity, end, [&](std::int32_t a, std::int32_t b) {
        const float p_a = comparable(p[a * E + e]);
        const float p_b = comparable(p[b * E + e]);
        return p_a != p_b ? p_a > p_b : a < b;
      });
      for (const std::int32_t* t = begin; t != begin + capacity; ++t)
        chosen[*t * E + e] = static_cast<std::int32_t>(e);
    }
  }

  const auto scale = static_cast<float>(config_.routed_scale());
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < probabilities.extent(0); ++t) {
    const float* p_t = p + t * E;
    std::int32_t* const begin = chosen + t * E;
    std::int32_t* const end = std::remove(begin, begin + E, kNoExpert);
    std::fill(end, begin + E, kNoExpert);
    std::sort(begin, end, [&](std::int32_t a, std::int32_t b) {
      const float p_a = comparable(p_t[a]);
      const float p_b = comparable(p_t[b]);
      return p_a != p_b ? p_a > p_b : a < b;
    });
    float* weight = weights.data<float>() + t * E;
    std::fill_n(weight, E, 0.0F);
    for (const std::int32_t* e = begin; e != end; ++e) *weight++ = scale * p_t[*e];
  }
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
