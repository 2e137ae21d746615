#include "layers/moe/router/noisy_top_k_router.h"

#include <gtest/gtest.h>

#include "tests/support/reference/noisy_top_k.h"
#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::reference_softmax_top_k;
using test::reference_top_k;
using test::RouterCase;
using test::RouterReference;

config::Experiment experiment(std::int64_t experts, std::int64_t top_k) {
  config::Experiment config = RouterCase::experiment(config::Moe::noisy_top_k, experts, top_k);
  config.mutable_moe()->set_importance_loss(0.7);
  config.mutable_moe()->set_load_loss(0.9);
  return config;
}

template <class T>
struct TokenLogits {
  std::vector<T> clean, deviation, noisy;  // [E]

  TokenLogits(const test::NamedTensors<T>& at, const RouterCase& c, std::int64_t t)
      : clean(RouterCase::logits(at, ".weight", t)) {
    const RandomStream random(7, RouterCase::kName + "/noise");
    const std::vector<T> spread = RouterCase::logits(at, ".noise_weight", t);
    for (std::size_t e = 0; e < clean.size(); ++e) {
      deviation.push_back(test::reference_softplus(spread[e]) + 0.01);
      const auto index = (c.context.batch.first_token_of_run() + t) * c.E() + static_cast<std::int64_t>(e);
      noisy.push_back(clean[e] +
                      static_cast<double>(random.normal(static_cast<std::uint64_t>(index))) * deviation[e]);
    }
  }
};

// Importance and load within each sequence.
template <class T>
T variation_terms(const RouterCase& c, const std::vector<std::vector<T>>& gates,
                  const std::vector<std::vector<T>>& loads) {
  T sum = 0;
  for (std::size_t begin = 0; begin < gates.size(); begin += RouterCase::S) {
    std::vector<T> importance(gates[0].size(), T(0));
    std::vector<T> load(gates[0].size(), T(0));
    double tokens = 0;
    for (std::size_t t = begin; t < begin + RouterCase::S; ++t) {
      if (c.context.is_padding(static_cast<std::int64_t>(t))) continue;
      tokens += 1;
      for (std::size_t e = 0; e < load.size(); ++e) {
        importance[e] += gates[t][e];
        load[e] += loads[t][e];
      }
    }
    const double share = tokens / static_cast<double>(c.context.batch.global_tokens());
    if (tokens == 0) continue;
    sum += share * c.setting.moe().importance_loss() * test::reference_squared_variation(importance);
    sum += share * c.setting.moe().load_loss() * test::reference_squared_variation(load);
  }
  return sum;
}

void expect_matches_reference(RouterCase& c) {
  const auto at = c.values();
  std::vector<std::vector<std::int32_t>> best;
  std::vector<std::vector<std::int32_t>> chosen;
  std::vector<std::vector<std::int32_t>> thresholds;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const TokenLogits<double> logits(at, c, t);
    best.push_back(reference_top_k(logits.noisy, c.K()));
    chosen.push_back(c.context.is_padding(t) ? test::empty_places(c.K()) : best.back());
    thresholds.push_back(test::reference_thresholds(logits.noisy, c.K()));
  }
  c.expect_matches(chosen, [&]<class T>(const test::NamedTensors<T>& point) {
    RouterReference<T> result;
    std::vector<std::vector<T>> probabilities, gates, loads;
    std::vector<T> squares;
    for (std::size_t t = 0; t < best.size(); ++t) {
      const TokenLogits<T> logits(point, c, static_cast<std::int64_t>(t));
      const auto one = reference_softmax_top_k(logits.noisy, best[t], true);
      gates.emplace_back(static_cast<std::size_t>(c.E()), T(0));
      for (std::size_t k = 0; k < best[t].size(); ++k) {
        gates.back()[static_cast<std::size_t>(best[t][k])] = one.weights[k];
        result.weights.push_back(chosen[t][k] == kNoExpert ? T(0)
                                                           : c.setting.moe().routed_scale() * one.weights[k]);
      }
      probabilities.push_back(one.probabilities);
      squares.push_back(one.log_sum_exp * one.log_sum_exp);
      loads.push_back(test::reference_load(logits.clean, logits.noisy, logits.deviation, thresholds[t]));
    }
    result.terms =
        test::reference_sequence_terms(c, probabilities, chosen, squares) + variation_terms(c, gates, loads);
    return result;
  });
}

TEST(NoisyTopKRouterTest, MatchesReference) {
  for (const auto& [E, K] : {std::pair<std::int64_t, std::int64_t>{6, 2}, {5, 1}, {4, 3}, {3, 3}, {1, 1}}) {
    SCOPED_TRACE(fmt::format("E {} K {}", E, K));
    config::Experiment config = experiment(E, K);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    expect_matches_reference(c);
  }
}

TEST(NoisyTopKRouterTest, EachTermMatchesReferenceAlone) {
  for (const bool importance : {false, true}) {
    config::Experiment config = experiment(6, 2);
    config.mutable_moe()->set_balance_loss(0);
    if (importance)
      config.mutable_moe()->set_load_loss(0);
    else
      config.mutable_moe()->set_importance_loss(0);
    RouterCase c(config, 2);
    expect_matches_reference(c);
    EXPECT_EQ(c.statistics.importance_loss_raw > 0, importance);
    EXPECT_EQ(c.statistics.load_loss_raw > 0, !importance);
  }
}

TEST(NoisyTopKRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment(6, 2), 3);
  c.pad(2);
  expect_matches_reference(c);
}

TEST(NoisyTopKRouterTest, NoiseIsNewInEveryStepAndFromSeedAndName) {
  RouterCase c(experiment(8, 2), 4);
  const auto choices = [&] {
    const auto experts = c.forward().experts.values<std::int32_t>();
    return std::vector<std::int32_t>(experts.begin(), experts.end());
  };
  const auto first = choices();
  EXPECT_EQ(first, choices());  // a recomputed forward draws the same
  c.context.batch.step = 4;
  EXPECT_NE(first, choices());
}

TEST(NoisyTopKRouterTest, EvaluationIsClean) {
  RouterCase c(experiment(6, 2), 3);
  c.context.training = false;
  c.context.grid = nullptr;
  c.forward();
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const auto wanted = reference_top_k(RouterCase::logits(c.values(), ".weight", t), 2);
    const auto experts = c.routing.experts.rows(t, t + 1).values<std::int32_t>();
    EXPECT_TRUE(std::ranges::equal(experts, wanted)) << t;
  }
  EXPECT_EQ(c.statistics.importance_loss_raw, 0);
  EXPECT_EQ(c.statistics.load_loss_raw, 0);
}

TEST(NoisyTopKRouterTest, StartsWithTheNoiseOfZeroWeights) {
  NoisyTopKRouter router(experiment(4, 2), "router");
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 2U);
  EXPECT_EQ(parameters[0]->name(), "router.weight");
  EXPECT_NE(parameters[0]->value().values<float>()[0], 0);
  EXPECT_EQ(parameters[1]->name(), "router.noise_weight");
  for (const float value : parameters[1]->value().values<float>()) EXPECT_EQ(value, 0);
}

TEST(NoisyTopKRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment(4, 2);
    config.mutable_moe()->set_balance_scope(scope);
    RouterCase c(config, 0);
    EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 2}));
    EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
    EXPECT_EQ(c.statistics.importance_loss_raw, 0);
  }
}

TEST(SquaredVariation, IsFlatAtPerfectBalanceAndWithoutTokens) {
  std::vector<double> gradient(4, 1);
  EXPECT_EQ(squared_variation(std::vector<double>(4, 2.5), gradient), 0);
  EXPECT_EQ(gradient, std::vector<double>(4, 0));
  EXPECT_EQ(squared_variation(std::vector<double>(4, 0), gradient), 0);
  EXPECT_EQ(gradient, std::vector<double>(4, 0));
  // Mean 2, variance (4 + 4) / 4.
  EXPECT_DOUBLE_EQ(squared_variation(std::vector<double>{4, 0, 2, 2}, gradient), 0.5);
}

}  // namespace
}  // namespace conclave
