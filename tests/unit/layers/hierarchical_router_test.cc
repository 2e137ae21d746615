#include "layers/moe/router/hierarchical_router.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::RouterCase;

struct Sizes {
  std::int64_t experts, groups, top_groups, top_k;
};

config::Experiment experiment(const Sizes& sizes) {
  config::Experiment config = RouterCase::experiment(config::Moe::hierarchical, sizes.experts, sizes.top_k);
  config.mutable_moe()->set_expert_groups(sizes.groups);
  config.mutable_moe()->set_top_groups(sizes.top_groups);
  return config;
}

TEST(HierarchicalRouterTest, MatchesDefinition) {
  for (const Sizes& sizes : {Sizes{6, 3, 2, 4},
                             {6, 3, 1, 1},
                             {8, 2, 1, 3},
                             {5, 5, 2, 2},
                             {4, 1, 1, 2},
                             {6, 2, 2, 6},
                             {1, 1, 1, 1}}) {
    SCOPED_TRACE(
        fmt::format("E {} G {} H {} K {}", sizes.experts, sizes.groups, sizes.top_groups, sizes.top_k));
    config::Experiment config = experiment(sizes);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    test::expect_matches_definition(c);
  }
}

TEST(HierarchicalRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment({6, 3, 2, 4}), 3);
  c.pad(2);
  test::expect_matches_definition(c);
}

TEST(HierarchicalRouterTest, WorksWithoutALoadBalanceTerm) {
  config::Experiment config = experiment({6, 3, 2, 4});
  config.mutable_moe()->set_balance_loss(0);
  RouterCase c(config, 2);
  test::expect_matches_definition(c);
}

TEST(HierarchicalRouterTest, WeightsSumToTheScale) {
  RouterCase c(experiment({8, 4, 2, 4}), 3);
  c.forward();
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const auto weights = c.routing.weights.rows(t, t + 1).values<float>();
    EXPECT_TRUE(std::ranges::is_sorted(weights, std::greater<>()));
    EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0), 1, 1e-6);
  }
}

TEST(HierarchicalRouterTest, TiesGoToTheLowerIds) {
  RouterCase c(experiment({6, 3, 2, 4}), 1);
  for (Parameter* parameter : c.parameters) parameter->initialise_constant(0);
  c.forward();
  for (std::size_t i = 0; i < static_cast<std::size_t>(4 * c.tokens()); ++i) {
    EXPECT_EQ(c.routing.experts.values<std::int32_t>()[i], i % 4);
    EXPECT_EQ(c.routing.weights.values<float>()[i], 0.25F);
  }
}

TEST(HierarchicalRouterTest, EvaluationTakesNoLossTerms) {
  RouterCase c(experiment({6, 3, 2, 4}), 1);
  c.context.training = false;
  c.context.grid = nullptr;
  c.forward();
  EXPECT_GT(c.statistics.router_entropy_sum, 0);
  EXPECT_EQ(c.statistics.balance_loss_raw, 0);
}

TEST(HierarchicalRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment({6, 3, 2, 4});
    config.mutable_moe()->set_balance_scope(scope);
    RouterCase c(config, 0);
    EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 4}));
    EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
  }
}

}  // namespace
}  // namespace conclave
