// Every router that has logits, at the edges of what they can be: forward and backward as defined.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::router_experiment;
using test::RouterCase;

class RouterExtremesTest : public testing::TestWithParam<config::Moe::Router> {};

// A definition holds for what is ordinary first.
TEST_P(RouterExtremesTest, OrdinaryLogits) {
  RouterCase c(router_experiment(GetParam()), 3);
  test::expect_matches_definition(c);
}

TEST_P(RouterExtremesTest, AllEqualLogits) {
  RouterCase c(router_experiment(GetParam()), 3);
  for (Parameter* parameter : c.parameters) parameter->initialise_constant(0);
  std::ranges::fill(c.bias, 0.0F);
  std::vector<ShardedTensor> state;
  c.router->collect_state(state);
  for (const ShardedTensor& tensor : state) std::ranges::fill(tensor.local.values<float>(), 0.0F);
  test::expect_matches_definition(c);
}

TEST_P(RouterExtremesTest, AllExpertsChosen) {
  RouterCase c(router_experiment(GetParam(), 2, 2), 3);
  test::expect_matches_definition(c);
  if (GetParam() == config::Moe::gshard) return;
  RouterCase more(router_experiment(GetParam(), 4, 4), 3);
  test::expect_matches_definition(more);
}

TEST_P(RouterExtremesTest, OneToken) {
  RouterCase c(router_experiment(GetParam()), 1, 2, /*length=*/1);
  ASSERT_EQ(c.tokens(), 1);
  test::expect_matches_definition(c);
}

TEST_P(RouterExtremesTest, OneExpert) {
  if (GetParam() == config::Moe::gshard) return;  // chooses two
  RouterCase c(router_experiment(GetParam(), 1, 1), 2);
  test::expect_matches_definition(c);
}

// Gives the logits of experts from `first` on a product that overflows: -inf in fp32, as good as that in
// double.
void make_infinite(RouterCase& c, const std::string& suffix, std::int64_t first) {
  for (std::size_t i = 0; i < c.x.size(); i += RouterCase::D) c.x[i] = 10;
  for (Parameter* parameter : c.parameters) {
    if (parameter->name() != RouterCase::kName + suffix) continue;
    for (std::int64_t e = first; e < parameter->value().extent(0); ++e) {
      const auto row = parameter->mutable_value().rows(e, e + 1).values<float>();
      std::ranges::fill(row, 0.0F);
      row[0] = -3e38F;
    }
  }
}

TEST_P(RouterExtremesTest, MinusInfinity) {
  RouterCase c(router_experiment(GetParam()), 3);
  make_infinite(c, ".weight", 5);
  test::expect_matches_definition(c);
  EXPECT_TRUE(std::isfinite(c.statistics.router_entropy_sum));
}

TEST(RouterExtremes, MinusInfinityOfAGroup) {
  RouterCase c(router_experiment(config::Moe::hierarchical), 3);
  make_infinite(c, ".group_weight", 2);
  test::expect_matches_definition(c);
}

// Fewer finite logits than choices: a choice at -inf has weight 0, and nothing becomes NaN.
TEST_P(RouterExtremesTest, FewerFiniteLogitsThanChoices) {
  config::Experiment experiment = router_experiment(GetParam(), 4, 3);
  if (GetParam() == config::Moe::hierarchical) {
    experiment.mutable_moe()->set_expert_groups(1);
    experiment.mutable_moe()->set_top_groups(1);
  }
  RouterCase c(experiment, 2);
  make_infinite(c, ".weight", GetParam() == config::Moe::gshard ? 1 : 2);
  c.forward();
  for (const float weight : c.routing.weights.values<float>()) EXPECT_TRUE(std::isfinite(weight));
  for (const float value : c.backward().values<float>()) EXPECT_TRUE(std::isfinite(value));
  for (Parameter* parameter : c.parameters)
    for (const float value : parameter->gradient().values<float>()) EXPECT_TRUE(std::isfinite(value));
  EXPECT_TRUE(std::isfinite(c.terms()));
}

std::string name_of(const testing::TestParamInfo<config::Moe::Router>& tested) {
  return config::Moe::Router_Name(tested.param);
}
INSTANTIATE_TEST_SUITE_P(Routers, RouterExtremesTest, testing::ValuesIn(test::kLearningRouters), name_of);

// Which experts a source's tokens belong to, taught to every router that has probabilities.
class RouterSupervisionTest : public testing::TestWithParam<config::Moe::Router> {};

TEST_P(RouterSupervisionTest, MatchesDefinition) {
  for (const bool balance : {false, true}) {
    config::Experiment experiment = router_experiment(GetParam());
    if (!balance) experiment.mutable_moe()->set_balance_loss(0);
    RouterCase::supervise(experiment);
    RouterCase c(experiment, 3);
    c.pad(1);
    test::expect_matches_definition(c);
    EXPECT_GT(c.statistics.supervision_loss_raw, 0);
    EXPECT_EQ(c.statistics.labelled_tokens, 2 * 4);
  }
}

TEST_P(RouterSupervisionTest, EvaluationCountsHits) {
  config::Experiment experiment = router_experiment(GetParam());
  RouterCase::supervise(experiment);
  RouterCase c(experiment, 3);
  c.context.training = false;
  c.forward();
  EXPECT_EQ(c.statistics.labelled_tokens, 2 * 5);
  EXPECT_EQ(c.statistics.supervision_loss_raw, 0);
  std::int64_t hits = 0;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const std::int32_t first = c.routing.experts.values<std::int32_t>()[static_cast<std::size_t>(t * c.K())];
    hits += t / RouterCase::S != 1 && (first == 0 || first == 5) ? 1 : 0;
  }
  EXPECT_EQ(c.statistics.labelled_hits, hits);
}

INSTANTIATE_TEST_SUITE_P(Routers, RouterSupervisionTest, testing::ValuesIn(test::kLearningRouters), name_of);

// moe.force_balanced for every router that chooses and has something to weigh dealt experts by.
class ForcedRouterTest : public testing::TestWithParam<config::Moe::Router> {};

TEST_P(ForcedRouterTest, DealsEvenlyAndWeighsAsDefined) {
  for (const bool normalize : {true, false}) {
    const bool can_keep = GetParam() == config::Moe::softmax || GetParam() == config::Moe::sigmoid;
    if (!normalize && !can_keep) continue;
    config::Experiment experiment = router_experiment(GetParam(), 4, 2);
    experiment.mutable_moe()->set_force_balanced(true);
    experiment.mutable_moe()->set_normalize_top_k(normalize);
    if (GetParam() == config::Moe::noisy_top_k) experiment.mutable_moe()->set_load_loss(0);
    RouterCase c(experiment, 2, /*first_sequence=*/2);
    test::expect_matches_definition(c);
    std::vector<std::int64_t> load(4, 0);
    for (const std::int32_t expert : c.routing.experts.values<std::int32_t>())
      ++load[static_cast<std::size_t>(expert)];
    EXPECT_EQ(load, std::vector<std::int64_t>(4, 5));
  }
}

INSTANTIATE_TEST_SUITE_P(Routers, ForcedRouterTest,
                         testing::Values(config::Moe::softmax, config::Moe::sigmoid, config::Moe::gshard,
                                         config::Moe::noisy_top_k, config::Moe::hierarchical),
                         name_of);

}  // namespace
}  // namespace conclave
