// The hierarchical router on a GPU against the host, which has tests of its own: choices number for number.
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/gpu_router_case.h"

namespace conclave::test {
namespace {

struct Sizes {
  std::int64_t experts, groups, top_groups, top_k;
};

config::Experiment experiment(const Sizes& sizes) {
  config::Experiment result;
  config::Moe& moe = *result.mutable_moe();
  moe.set_router(config::Moe::hierarchical);
  moe.set_experts(sizes.experts);
  moe.set_top_k(sizes.top_k);
  moe.set_expert_groups(sizes.groups);
  moe.set_top_groups(sizes.top_groups);
  moe.set_routed_scale(1.5);
  moe.set_balance_loss(0.5);
  moe.set_balance_scope(config::Moe::sequence);
  moe.set_z_loss(0.25);
  return result;
}

const std::vector<Sizes> kSizes = {{6, 3, 2, 4}, {6, 3, 1, 1},   {8, 2, 1, 3}, {5, 5, 2, 2}, {4, 1, 1, 2},
                                   {6, 2, 2, 6}, {72, 2, 2, 10}, {1, 1, 1, 1}, {12, 4, 3, 6}};

class HierarchicalGpuTest : public GpuRouterTest {
 protected:
  void expect_same(const config::Experiment& described, bool padded = false) {
    const config::Moe& moe = described.moe();
    SCOPED_TRACE(fmt::format("E {} G {} H {} K {}, padded {}", moe.experts(), moe.expert_groups(),
                             moe.top_groups(), moe.top_k(), padded));
    GpuRouterCase c(described, 3, 7);
    if (padded) {
      for (std::int64_t t = 0; t < c.batch.tokens(); ++t) c.padding.push_back(t % 7 >= 7 - t / 7);
    }
    c.expect_same(*engine_);
  }
};

TEST_F(HierarchicalGpuTest, RoutesAndDifferentiatesAsTheHost) {
  for (const Sizes& sizes : kSizes)
    for (const bool padded : {false, true}) expect_same(experiment(sizes), padded);
}

TEST_F(HierarchicalGpuTest, DealsAsTheHost) {
  for (const Sizes& sizes : kSizes) {
    config::Experiment config = experiment(sizes);
    config.mutable_moe()->set_force_balanced(true);
    expect_same(config);
  }
}

TEST_F(HierarchicalGpuTest, DifferentiatesWithoutALoadBalanceTerm) {
  config::Experiment config = experiment({6, 3, 2, 4});
  config.mutable_moe()->set_balance_loss(0);
  expect_same(config);
}

TEST_F(HierarchicalGpuTest, EvaluatesAsTheHost) {
  GpuRouterCase c(experiment({6, 3, 2, 4}), 2, 150);
  c.training = false;
  c.expect_same(*engine_);
}

// All groups and experts weigh the same, so that only ids order them.
TEST_F(HierarchicalGpuTest, TiesEndAsOnTheHost) {
  for (const Sizes& sizes : kSizes) {
    GpuRouterCase c(experiment(sizes), 2, 3);
    c.adjust = [](Parameter& parameter) { parameter.initialise_constant(0); };
    c.expect_same(*engine_);
  }
}

TEST_F(HierarchicalGpuTest, RoutesTokensThatAreNotNumbers) {
  for (const bool deals : {false, true}) {
    config::Experiment config = experiment({12, 4, 3, 6});
    config.mutable_moe()->set_force_balanced(deals);
    GpuRouterCase c(config, 2, 6);
    c.x[5] = std::numeric_limits<float>::quiet_NaN();
    c.expect_same(*engine_);
  }
}

// Of one group's gate alone: its weights are NaN among others that are numbers.
TEST_F(HierarchicalGpuTest, WeightsThatAreNotNumbersBreakNoOrder) {
  GpuRouterCase c(experiment({12, 4, 3, 6}), 2, 6);
  c.adjust = [](Parameter& parameter) {
    if (parameter.value().extent(0) == 12)
      parameter.mutable_value().data<float>()[4 * GpuRouterCase::D] = std::numeric_limits<float>::quiet_NaN();
  };
  c.expect_same(*engine_);
}

TEST_F(HierarchicalGpuTest, PaddingThatIsNotANumberCountsNowhere) {
  GpuRouterCase c(experiment({12, 4, 3, 6}), 2, 6);
  c.training = false;
  c.padding.assign(12, 0);
  c.padding[11] = 1;
  c.x.back() = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(c.expect_same(*engine_).entropy[11], 0);
}

TEST_F(HierarchicalGpuTest, RoutesNoTokens) {
  GpuRouterCase c(experiment({6, 3, 2, 4}), 0, 5);
  EXPECT_TRUE(c.expect_same(*engine_).experts.empty());
}

TEST_F(HierarchicalGpuTest, RepeatsBitByBit) {
  GpuRouterCase c(experiment({12, 4, 3, 6}), 3, 30);
  const auto first = c.on_gpu(*engine_);
  const auto second = c.on_gpu(*engine_);
  EXPECT_EQ(second.weights, first.weights);
  EXPECT_EQ(second.dx, first.dx);
  EXPECT_EQ(second.gradients, first.gradients);
  EXPECT_EQ(second.sums, first.sums);
}

}  // namespace
}  // namespace conclave::test
