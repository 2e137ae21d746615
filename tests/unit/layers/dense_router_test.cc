#include "layers/moe/router/dense_router.h"

#include <gtest/gtest.h>

#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::reference_softmax_top_k;
using test::reference_top_k;
using test::RouterCase;
using test::RouterReference;

config::Experiment experiment(std::int64_t experts) {
  config::Experiment config = RouterCase::experiment(config::Moe::dense, experts, experts);
  config.mutable_moe()->set_balance_loss(0);
  return config;
}

void expect_matches_reference(RouterCase& c) {
  const auto at = c.values();
  std::vector<std::vector<std::int32_t>> order;   // all experts, by logit
  std::vector<std::vector<std::int32_t>> chosen;  // those that padding doesn't take
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    order.push_back(reference_top_k(RouterCase::logits(at, ".weight", t), c.E()));
    chosen.push_back(c.context.is_padding(t) ? test::empty_places(c.E()) : order.back());
  }
  c.expect_matches(chosen, [&]<class T>(const test::NamedTensors<T>& point) {
    RouterReference<T> result;
    for (std::int64_t t = 0; t < c.tokens(); ++t) {
      const auto one = reference_softmax_top_k(RouterCase::logits(point, ".weight", t),
                                               order[static_cast<std::size_t>(t)], false);
      const double counts = c.context.is_padding(t) ? 0 : 1;
      for (const T& weight : one.weights)
        result.weights.push_back(counts * c.setting.moe().routed_scale() * weight);
      result.terms += counts * c.setting.moe().z_loss() /
                      static_cast<double>(c.context.batch.global_tokens()) * one.log_sum_exp *
                      one.log_sum_exp;
    }
    return result;
  });
}

TEST(DenseRouterTest, MatchesReference) {
  for (const std::int64_t E : {1, 2, 7}) {
    SCOPED_TRACE(E);
    config::Experiment config = experiment(E);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 2);
    expect_matches_reference(c);
  }
}

TEST(DenseRouterTest, PaddingTakesNoExpert) {
  RouterCase c(experiment(5), 2);
  c.pad(2);
  expect_matches_reference(c);
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
