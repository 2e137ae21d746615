#include "layers/moe/router/dense_router.h"

#include <gtest/gtest.h>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::RouterCase;

config::Experiment experiment(std::int64_t experts) {
  config::Experiment config = RouterCase::experiment(config::Moe::dense, experts, experts);
  config.mutable_moe()->set_balance_loss(0);
  return config;
}

TEST(DenseRouterTest, MatchesDefinition) {
  for (const std::int64_t E : {1, 2, 7}) {
    SCOPED_TRACE(E);
    config::Experiment config = experiment(E);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    test::expect_matches_definition(c);
  }
}

TEST(DenseRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment(5), 2);
  c.pad(2);
  test::expect_matches_definition(c);
}

// The load-balance term is a constant here: it is left out.
TEST(DenseRouterTest, HasNoLoadBalanceTerm) {
  config::Experiment config = experiment(5);
  config.mutable_moe()->set_balance_loss(0.5);
  RouterCase c(config, 2);
  c.forward();
  EXPECT_EQ(c.statistics.balance_loss_raw, 0);
  EXPECT_GT(c.statistics.z_loss_raw, 0);
}

TEST(DenseRouterTest, EqualLogitsGiveEqualWeightsInTheOrderOfIds) {
  RouterCase c(experiment(4), 1);
  c.parameters[0]->initialise_constant(0);
  c.forward();
  for (std::int64_t i = 0; i < c.tokens() * 4; ++i) {
    EXPECT_EQ(c.routing.experts.values<std::int32_t>()[static_cast<std::size_t>(i)], i % 4);
    EXPECT_EQ(c.routing.weights.values<float>()[static_cast<std::size_t>(i)], 0.25F);
  }
}

TEST(DenseRouterTest, TakesZeroTokens) {
  RouterCase c(experiment(4), 0);
  EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 4}));
  EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
}

TEST(DenseRouterTest, EvaluationTakesNoLossTerms) {
  RouterCase c(experiment(4), 1);
  c.context.training = false;
  c.context.grid = nullptr;
  c.forward();
  EXPECT_GT(c.statistics.router_entropy_sum, 0);
  EXPECT_EQ(c.statistics.z_loss_raw, 0);
}

}  // namespace
}  // namespace conclave
