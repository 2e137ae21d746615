#include "layers/moe/router/expert_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/dispatch_plan.h"
#include "layers/moe/routing.h"

namespace conclave {
namespace {

// NaN would break the order; the trainer sees it in the loss.
float comparable(float probability) {
  return std::isnan(probability) ? -std::numeric_limits<float>::infinity() : probability;
}

// Sets experts[t, e] to e where e takes t, to kNoExpert elsewhere.
void take_tokens(Context& ctx, const config::Moe& moe, const ExpertChoiceArgs& args) {
  const std::int64_t S = ctx.batch.sequence_length;
  const std::int64_t E = args.probabilities.extent(1);
  const float* p = args.probabilities.data<float>();
  std::int32_t* chosen = args.experts.data<std::int32_t>();
  std::ranges::fill(args.experts.values<std::int32_t>(), kNoExpert);

  const Arena::Mark scratch(*ctx.arena);
  const TensorView all_candidates = ctx.arena->allocate({ctx.batch.sequences, S}, DType::kInt32);
#pragma omp parallel for schedule(static)
  for (std::int64_t sequence = 0; sequence < ctx.batch.sequences; ++sequence) {
    std::int32_t* const begin = all_candidates.data<std::int32_t>() + sequence * S;
    std::int32_t* end = begin;
    for (std::int64_t t = sequence * S; t < (sequence + 1) * S; ++t) {
      if (!ctx.is_padding(t)) *end++ = static_cast<std::int32_t>(t);
    }
    const std::int64_t capacity = expert_choice_capacity(moe, end - begin);
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
}

// Puts each token's experts in order, and weighs them.
void order_experts(float scale, const ExpertChoiceArgs& args) {
  const std::int64_t E = args.probabilities.extent(1);
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < args.probabilities.extent(0); ++t) {
    const float* p = args.probabilities.data<float>() + t * E;
    std::int32_t* const begin = args.experts.data<std::int32_t>() + t * E;
    std::int32_t* const end = std::remove(begin, begin + E, kNoExpert);
    std::fill(end, begin + E, kNoExpert);
    std::sort(begin, end, [&](std::int32_t a, std::int32_t b) {
      const float p_a = comparable(p[a]);
      const float p_b = comparable(p[b]);
      return p_a != p_b ? p_a > p_b : a < b;
    });
    float* weight = args.weights.data<float>() + t * E;
    std::fill_n(weight, E, 0.0F);
    for (const std::int32_t* e = begin; e != end; ++e) *weight++ = scale * p[*e];
  }
}

std::vector<std::int64_t> capacities_of_sequences(const Context& ctx, const config::Moe& moe) {
  const std::int64_t S = ctx.batch.sequence_length;
  std::vector<std::int64_t> capacities;
  for (std::int64_t sequence = 0; sequence < ctx.batch.sequences; ++sequence) {
    std::int64_t tokens = 0;
    for (std::int64_t t = sequence * S; t < (sequence + 1) * S; ++t) tokens += ctx.is_padding(t) ? 0 : 1;
    capacities.push_back(expert_choice_capacity(moe, tokens));
  }
  return capacities;
}

void choose_tokens_on_gpu(Context& ctx, const config::Moe& moe, const ExpertChoiceArgs& args) {
  const std::int64_t T = args.probabilities.extent(0);
  const std::int64_t E = args.probabilities.extent(1);
  if (T == 0) return;
  const std::vector<std::int64_t> capacities = capacities_of_sequences(ctx, moe);
  const Arena::Mark scratch(*ctx.arena);
  cuda::choose_tokens(cuda::stream_of(ctx),
                      {.sequences = ctx.batch.sequences,
                       .sequence_length = ctx.batch.sequence_length,
                       .experts_count = E,
                       .scale = static_cast<float>(moe.routed_scale()),
                       .probabilities = args.probabilities.data<float>(),
                       .padding = cuda::padding_on_gpu(ctx),
                       .capacities = cuda::upload(ctx, std::span<const std::int64_t>(capacities)),
                       .keys = static_cast<std::uint32_t*>(ctx.arena->allocate({E, T}, DType::kInt32).raw()),
                       .experts = args.experts.data<std::int32_t>(),
                       .weights = args.weights.data<float>()});
}

}  // namespace

std::int64_t expert_choice_capacity(const config::Moe& moe, std::int64_t tokens) {
  return std::min(tokens, expert_capacity(moe.capacity_factor(), tokens, moe.top_k(), moe.experts()));
}

void choose_tokens(Context& ctx, const config::Moe& moe, const ExpertChoiceArgs& args) {
  if (ctx.on_gpu()) return choose_tokens_on_gpu(ctx, moe, args);
  take_tokens(ctx, moe, args);
  order_experts(static_cast<float>(moe.routed_scale()), args);
}

}  // namespace conclave
