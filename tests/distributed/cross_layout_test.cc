// ranks: 4
// run.determinism: cross_layout, with every kind of router and expert: losses, gradient norms, gradients and
// updates on 1, 2, 3 and 4 ranks and every expert_parallel_size are those of one rank, bit for bit. 5 experts
// and 4 uneven shards of the batch: neither fits the ranks.
#include <gtest/gtest.h>

#include <string>

#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/verify_layout.h"

namespace conclave {
namespace {

class CrossLayoutTest : public testing::TestWithParam<const char*> {};

TEST_P(CrossLayoutTest, EqualBitForBit) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_run()->set_determinism(config::Run::cross_layout);
  experiment.mutable_moe()->set_experts(5);
  experiment.mutable_moe()->set_capacity_factor(1);  // tokens are dropped
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment.mutable_moe()->set_z_loss(1e-3);
  experiment.mutable_train()->set_global_batch(7);
  experiment.mutable_train()->set_micro_batch(2);
  test::apply(experiment, GetParam());
  if (experiment.moe().pad_to_capacity()) experiment.mutable_moe()->set_capacity_factor(0.8);

  const LayoutReport report = verify_layouts(experiment, {1, 2, 3, 4}, 3, test::world());
  EXPECT_GE(report.checks.size(), 7U);
  EXPECT_EQ(report.bound.gradient, 0);
  EXPECT_TRUE(report.passed()) << to_text(report);
}

INSTANTIATE_TEST_SUITE_P(Variants, CrossLayoutTest,
                         testing::Values("", "shared", "top1", "sigmoid", "groups", "hash", "dense_mixture",
                                         "gshard", "noisy_top_k", "hierarchical", "expert_choice",
                                         "pad_to_capacity", "dropout", "overrides", "gateless",
                                         "local_experts"));

}  // namespace
}  // namespace conclave
