// The entropy of each token's distribution, which routers pass on for those who look into them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::RouterCase;

class RouterEntropy : public testing::TestWithParam<config::Moe::Router> {};

TEST_P(RouterEntropy, OfEachTokenAddsUpToTheCountedSum) {
  constexpr std::int64_t E = 6;
  config::Experiment experiment =
      RouterCase::experiment(GetParam(), E, GetParam() == config::Moe::dense ? E : 2);
  experiment.mutable_moe()->set_expert_groups(GetParam() == config::Moe::hierarchical ? 3 : 1);
  RouterCase c(experiment, 2);
  c.pad(2);
  const Routing routing = c.forward();
  ASSERT_EQ(routing.entropy.elements(), c.tokens());
  double sum = 0;
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    const float entropy = routing.entropy.data<float>()[t];
    sum += entropy;
    if (c.context.is_padding(t)) {
      EXPECT_EQ(entropy, 0);
    } else {
      EXPECT_GT(entropy, 0);
      EXPECT_LE(entropy, std::log(static_cast<double>(E)) * (1 + 1e-6));
    }
  }
  // Each is rounded to fp32 once more than what was added up.
  EXPECT_NEAR(sum, c.statistics.router_entropy_sum, std::numeric_limits<float>::epsilon() * sum);
}

INSTANTIATE_TEST_SUITE_P(Routers, RouterEntropy,
                         testing::Values(config::Moe::softmax, config::Moe::sigmoid, config::Moe::dense,
                                         config::Moe::gshard, config::Moe::noisy_top_k,
                                         config::Moe::hierarchical, config::Moe::expert_choice),
                         [](const auto& tested) { return config::Moe::Router_Name(tested.param); });

}  // namespace
}  // namespace conclave
