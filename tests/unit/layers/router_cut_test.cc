// A step cut into 1, 2 or 4 micro-batches: choices, weights and the loss terms within sequences are the same,
// noise included, for every router.
#include <gtest/gtest.h>

#include "tests/support/router_reference.h"

namespace conclave {
namespace {

using test::RouterCase;

class RouterCutTest : public testing::TestWithParam<config::Moe::Router> {};

config::Experiment experiment(config::Moe::Router router) {
  return router == config::Moe::hash ? RouterCase::experiment(router, 4, 2)
                                     : test::router_experiment(router, 4, 2);
}

struct Step {
  std::vector<std::int32_t> experts;
  std::vector<float> weights, dx;
  double terms = 0;
};

Step run(config::Moe::Router router, std::int64_t micro_steps) {
  Step step;
  const std::int64_t sequences = RouterCase::kGlobalSequences / micro_steps;
  for (std::int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
    RouterCase c(experiment(router), sequences, micro_step * sequences);
    c.context.batch.micro_step = micro_step;
    c.context.batch.micro_steps = micro_steps;
    c.pad(1);
    c.forward();
    const auto experts = c.routing.experts.values<std::int32_t>();
    step.experts.insert(step.experts.end(), experts.begin(), experts.end());
    const auto weights = c.routing.weights.values<float>();
    step.weights.insert(step.weights.end(), weights.begin(), weights.end());
    step.terms += c.terms();
    const auto dx = c.backward().values<float>();
    step.dx.insert(step.dx.end(), dx.begin(), dx.end());
  }
  return step;
}

TEST_P(RouterCutTest, ChangesNothing) {
  const Step whole = run(GetParam(), 1);
  // Products of other numbers of rows may add up in another order: the logits, of magnitude below 10, and
  // what follows from them.
  const double tolerance = 16 * 10 * static_cast<double>(RouterCase::D) * test::kUnit;
  for (const std::int64_t micro_steps : {2, 4}) {
    const Step cut = run(GetParam(), micro_steps);
    EXPECT_EQ(cut.experts, whole.experts);
    ASSERT_EQ(cut.weights.size(), whole.weights.size());
    for (std::size_t i = 0; i < cut.weights.size(); ++i)
      EXPECT_NEAR(cut.weights[i], whole.weights[i], tolerance * whole.weights[i]);
    EXPECT_NEAR(cut.terms, whole.terms, tolerance * whole.terms);
    ASSERT_EQ(cut.dx.size(), whole.dx.size());
    for (std::size_t i = 0; i < cut.dx.size(); ++i) EXPECT_NEAR(cut.dx[i], whole.dx[i], tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Learning, RouterCutTest, testing::ValuesIn(test::kLearningRouters),
                         [](const auto& test) { return config::Moe::Router_Name(test.param); });
INSTANTIATE_TEST_SUITE_P(Fixed, RouterCutTest, testing::Values(config::Moe::hash),
                         [](const auto& test) { return config::Moe::Router_Name(test.param); });

}  // namespace
}  // namespace conclave
