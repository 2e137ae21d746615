#include "layers/moe/balance_loss.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "layers/moe/routing.h"

namespace conclave {
namespace {

// E * f / tokens into `df` [E], and E * sum_e f[e] sum_t p[t, e] / tokens, where f = counts / sum of counts
// and the sum over t takes the rows of `probabilities` [T, E].
double weigh(ConstTensorView probabilities, std::span<const std::int64_t> counts, double tokens,
             std::span<double> df) {
  const auto experts = static_cast<std::int64_t>(counts.size());
  const auto choices = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  const double scale = choices > 0 ? static_cast<double>(experts) / (choices * tokens) : 0;
  for (std::size_t e = 0; e < counts.size(); ++e) df[e] = scale * static_cast<double>(counts[e]);

  const float* p = probabilities.data<float>();
  double sum = 0;
  for (std::int64_t t = 0; t < probabilities.extent(0); ++t, p += experts) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t e = 0; e < experts; ++e)
      sum += df[static_cast<std::size_t>(e)] * static_cast<double>(p[e]);
  }
  return sum;
}

}  // namespace

BalanceLoss::BalanceLoss(const config::Moe& moe)
    : alpha_(moe.balance_loss()), beta_(moe.z_loss()), scope_(moe.balance_scope()) {}

BalanceGradient BalanceLoss::forward(Context& ctx, ConstTensorView probabilities, ConstTensorView experts,
                                     ConstTensorView log_sum_exp, MoeStatistics& statistics) {
  CONCLAVE_CHECK_EQ(probabilities.extent(0), ctx.batch.tokens(), "tokens of the balance loss");
  CONCLAVE_CHECK(ctx.batch.global_tokens() > 0, "a training step needs tokens, found {} sequences of {}",
                 ctx.batch.global_sequences, ctx.batch.sequence_length);
  if (ctx.on_gpu()) return forward_on_gpu(ctx, probabilities, experts, log_sum_exp);
  const auto global_tokens = static_cast<double>(ctx.batch.global_tokens());

  double squares = 0;
  for (const float value : log_sum_exp.values<float>()) squares += static_cast<double>(value) * value;
  statistics.z_loss_raw += squares / global_tokens;

  BalanceGradient gradient;
  gradient.z_coefficient = static_cast<float>(beta_ / global_tokens);
  if (alpha_ > 0) gradient.dprobabilities = balance(ctx, probabilities, experts, statistics);
  return gradient;
}

ConstTensorView BalanceLoss::balance(Context& ctx, ConstTensorView probabilities, ConstTensorView experts,
                                     MoeStatistics& statistics) {
  const std::int64_t E = probabilities.extent(1);
  const bool by_sequence = scope_ == config::Moe::sequence;
  const std::int64_t groups = by_sequence ? ctx.batch.sequences : 1;
  const std::int64_t tokens_a_group = by_sequence ? ctx.batch.sequence_length : probabilities.extent(0);
  const TensorView dprobabilities = ctx.arena->allocate({groups, E});

  const Arena::Mark scratch(*ctx.arena);
  const std::span<std::int64_t> counts = ctx.arena->allocate({E}, DType::kInt64).values<std::int64_t>();
  const std::span<double> df = ctx.arena->allocate({E}, DType::kFloat64).values<double>();
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t begin = group * tokens_a_group;
    const std::int64_t end = begin + tokens_a_group;
    count_choices(ctx, experts.rows(begin, end).values<std::int32_t>(), counts);
    statistics.balance_loss_raw +=
        weigh(probabilities.rows(begin, end), counts, static_cast<double>(ctx.batch.global_tokens()), df);
    std::ranges::transform(df, dprobabilities.rows(group, group + 1).values<float>().begin(),
                           [&](double value) { return static_cast<float>(alpha_ * value); });
  }
  return dprobabilities;
}

void BalanceLoss::count_choices(Context& ctx, std::span<const std::int32_t> chosen,
                                std::span<std::int64_t> counts) {
  std::ranges::fill(counts, 0);
  for (const std::int32_t expert : chosen) {
    if (expert != kNoExpert) ++counts[static_cast<std::size_t>(expert)];
  }
  if (scope_ == config::Moe::sequence) return;

  if (scope_ == config::Moe::global_batch && ctx.recomputing) {
    std::ranges::copy(chosen_this_step_, counts.begin());  // this micro-batch is among them
    return;
  }
  {
    const Span span(ctx.clock, "sum of counts", TimePart::kReduction, ComparedCall::kReduction);
    ctx.grid->world().all_reduce(buffer_view(counts)).wait();
  }
  if (scope_ == config::Moe::batch) return;

  if (ctx.batch.micro_step == 0) chosen_this_step_.assign(counts.size(), 0);
  CONCLAVE_CHECK_EQ(chosen_this_step_.size(), counts.size(), "experts counted since the first micro-batch");
  for (std::size_t e = 0; e < counts.size(); ++e) counts[e] = chosen_this_step_[e] += counts[e];
}

}  // namespace conclave
