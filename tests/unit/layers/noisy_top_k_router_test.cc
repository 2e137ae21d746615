#include "layers/moe/router/noisy_top_k_router.h"

#include <gtest/gtest.h>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::reference_top_k;
using test::RouterCase;

config::Experiment experiment(std::int64_t experts, std::int64_t top_k) {
  config::Experiment config = RouterCase::experiment(config::Moe::noisy_top_k, experts, top_k);
  config.mutable_moe()->set_importance_loss(0.7);
  config.mutable_moe()->set_load_loss(0.9);
  return config;
}

TEST(NoisyTopKRouterTest, MatchesDefinition) {
  for (const auto& [E, K] : {std::pair<std::int64_t, std::int64_t>{6, 2}, {5, 1}, {4, 3}, {3, 3}, {1, 1}}) {
    SCOPED_TRACE(fmt::format("E {} K {}", E, K));
    config::Experiment config = experiment(E, K);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    test::expect_matches_definition(c);
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
    test::expect_matches_definition(c);
    EXPECT_EQ(c.statistics.importance_loss_raw > 0, importance);
    EXPECT_EQ(c.statistics.load_loss_raw > 0, !importance);
  }
}

TEST(NoisyTopKRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment(6, 2), 3);
  c.pad(2);
  test::expect_matches_definition(c);
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
