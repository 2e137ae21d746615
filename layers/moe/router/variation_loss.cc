#include "layers/moe/router/variation_loss.h"

#include <algorithm>
#include <numeric>

#include "layers/moe/routing.h"

namespace conclave {
namespace {

// One set of tokens: sums over it of what each expert gets, and how many tokens it has.
struct Sums {
  std::span<double> all;         // [2E + 1], what follows
  std::span<double> importance;  // [E]
  std::span<double> load;        // [E]
  double& tokens;
};

void add_up(const Context& ctx, std::int64_t first_token, ConstTensorView experts, ConstTensorView gates,
            ConstTensorView load, const Sums& sums) {
  std::ranges::fill(sums.all, 0.0);
  const auto expert = experts.values<std::int32_t>();
  const auto gate = gates.values<float>();
  for (std::size_t choice = 0; choice < expert.size(); ++choice) {
    if (expert[choice] != kNoExpert)
      sums.importance[static_cast<std::size_t>(expert[choice])] += static_cast<double>(gate[choice]);
  }
  const auto probability = load.values<float>();
  for (std::size_t i = 0; i < probability.size(); ++i)
    sums.load[i % sums.load.size()] += static_cast<double>(probability[i]);
  for (std::int64_t t = 0; t < experts.extent(0); ++t) sums.tokens += ctx.is_padding(first_token + t) ? 0 : 1;
}

}  // namespace

double squared_variation(std::span<const double> sums, std::span<double> gradient) {
  const auto n = static_cast<double>(sums.size());
  const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / n;
  if (mean == 0) {
    std::ranges::fill(gradient, 0.0);
    return 0;
  }
  double variance = 0;
  for (const double sum : sums) variance += (sum - mean) * (sum - mean) / n;
  const double variation = variance / (mean * mean);
  std::ranges::transform(sums, gradient.begin(),
                         [&](double sum) { return 2 / (n * mean) * ((sum - mean) / mean - variation); });
  return variation;
}

VariationLoss::VariationLoss(const config::Moe& moe)
    : experts_(moe.experts()),
      importance_weight_(moe.importance_loss()),
      load_weight_(moe.load_loss()),
      by_sequence_(moe.balance_scope() == config::Moe::sequence) {}

VariationGradient VariationLoss::forward(Context& ctx, ConstTensorView experts, ConstTensorView gates,
                                         ConstTensorView load, MoeStatistics& statistics) const {
  if (!is_on()) return {};
  const std::int64_t E = experts_;
  const std::int64_t sets = by_sequence_ ? ctx.batch.sequences : 1;
  const std::int64_t tokens_a_set = by_sequence_ ? ctx.batch.sequence_length : experts.extent(0);
  if (ctx.on_gpu()) return forward_on_gpu(ctx, {.count = sets, .tokens = tokens_a_set}, experts, gates, load);
  const auto global_tokens = static_cast<double>(ctx.batch.global_tokens());
  const TensorView dgates = ctx.arena->allocate({importance_weight_ > 0 ? sets : 0, E});
  const TensorView dload = ctx.arena->allocate({load_weight_ > 0 ? sets : 0, E});

  const Arena::Mark scratch(*ctx.arena);
  const std::span<double> all = ctx.arena->allocate({2 * E + 1}, DType::kFloat64).values<double>();
  const std::span<double> gradient = ctx.arena->allocate({E}, DType::kFloat64).values<double>();
  const auto width = static_cast<std::size_t>(E);
  const Sums sums{all, all.first(width), all.subspan(width, width), all.back()};
  for (std::int64_t set = 0; set < sets; ++set) {
    const std::int64_t begin = set * tokens_a_set;
    const std::int64_t end = begin + tokens_a_set;
    add_up(ctx, begin, experts.rows(begin, end), gates.rows(begin, end),
           has_load() ? load.rows(begin, end) : load, sums);
    const double local_tokens = sums.tokens;
    if (!by_sequence_) {
      const Span span(ctx.clock, "sum of loads", TimePart::kReduction, ComparedCall::kReduction);
      ctx.grid->world().all_reduce(buffer_view(sums.all)).wait();
    }

    const auto take = [&](std::span<const double> values, double weight, TensorView dvalues, double& raw) {
      if (weight == 0) return;
      raw += squared_variation(values, gradient) * local_tokens / global_tokens;
      const double share = weight * sums.tokens / global_tokens;
      std::ranges::transform(gradient, dvalues.rows(set, set + 1).values<float>().begin(),
                             [&](double value) { return static_cast<float>(share * value); });
    };
    take(sums.importance, importance_weight_, dgates, statistics.importance_loss_raw);
    take(sums.load, load_weight_, dload, statistics.load_loss_raw);
  }
  return {dgates, dload};
}

}  // namespace conclave
