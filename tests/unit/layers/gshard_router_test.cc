#include "layers/moe/router/gshard_router.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::RouterCase;

config::Experiment experiment(std::int64_t experts) {
  return RouterCase::experiment(config::Moe::gshard, experts, 2);
}

TEST(GshardRouterTest, MatchesDefinition) {
  for (const std::int64_t E : {2, 6})
    for (const double scale : {1.0, 1.5}) {
      SCOPED_TRACE(fmt::format("E {} scale {}", E, scale));
      config::Experiment config = experiment(E);
      config.mutable_moe()->set_routed_scale(scale);
      RouterCase c(config, 3);
      test::expect_matches_definition(c);
      const auto experts = c.routing.experts.values<std::int32_t>();
      const auto empty = std::ranges::count(experts, kNoExpert);
      EXPECT_GT(empty, 0) << "some second choice is dropped";
      EXPECT_LT(empty, c.tokens()) << "and some is kept";
    }
}

TEST(GshardRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment(6), 3);
  c.pad(2);
  test::expect_matches_definition(c);
}

// Kept with probability 2 g2, on average over tokens.
TEST(GshardRouterTest, KeepsSecondsAsOftenAsTheirWeightsSay) {
  RouterCase c(experiment(4), 3);
  double kept = 0;
  double expected = 0;
  double variance = 0;
  for (std::int64_t step = 0; step < 100; ++step) {
    c.context.batch.step = step;
    c.context.training = false;
    const Routing both = c.forward();
    c.context.training = true;
    const Routing some = c.forward();
    for (std::size_t t = 0; t < static_cast<std::size_t>(c.tokens()); ++t) {
      const double p = std::min(1.0, 2.0 * static_cast<double>(both.weights.values<float>()[2 * t + 1]));
      expected += p;
      variance += p * (1 - p);
      kept += some.experts.values<std::int32_t>()[2 * t + 1] == kNoExpert ? 0 : 1;
    }
  }
  EXPECT_NEAR(kept, expected, 4 * std::sqrt(variance));
}

TEST(GshardRouterTest, EvaluationKeepsBoth) {
  RouterCase c(experiment(6), 3);
  c.context.training = false;
  c.context.grid = nullptr;
  c.forward();
  for (const std::int32_t expert : c.routing.experts.values<std::int32_t>()) EXPECT_NE(expert, kNoExpert);
  EXPECT_EQ(c.statistics.balance_loss_raw, 0);
}

// Equal logits tie to the two lowest ids; with g2 = 1/2 the second is always kept.
TEST(GshardRouterTest, TiesGoToTheLowerIds) {
  RouterCase c(experiment(5), 3);
  c.parameters[0]->initialise_constant(0);
  c.forward();
  for (std::size_t i = 0; i < static_cast<std::size_t>(2 * c.tokens()); ++i) {
    EXPECT_EQ(c.routing.experts.values<std::int32_t>()[i], i % 2);
    EXPECT_EQ(c.routing.weights.values<float>()[i], 0.5F);
  }
}

TEST(GshardRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment(4);
    config.mutable_moe()->set_balance_scope(scope);
    RouterCase c(config, 0);
    EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 2}));
    EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
  }
}

}  // namespace
}  // namespace conclave
