// ranks: 1 2 3
// An evaluation on these ranks against the same one on one rank, full and limited.
#include "trainer/evaluate.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

Evaluation run(Trainer& trainer, std::int64_t max_sequences) {
  return evaluate({.model = trainer.model,
                   .dataset = trainer.dataset,
                   .grid = trainer.grid,
                   .arena = trainer.arena,
                   .batch = trainer.batch,
                   .micro_batch = trainer.experiment.train().micro_batch(),
                   .max_sequences = max_sequences});
}

// Up to a near tie or two, which rounding may decide either way.
void expect_same_loads(const std::vector<std::vector<std::int64_t>>& actual,
                       const std::vector<std::vector<std::int64_t>>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t layer = 0; layer < actual.size(); ++layer) {
    ASSERT_EQ(actual[layer].size(), expected[layer].size());
    for (std::size_t expert = 0; expert < actual[layer].size(); ++expert) {
      EXPECT_NEAR(static_cast<double>(actual[layer][expert]), static_cast<double>(expected[layer][expert]), 2)
          << "layer " << layer << ", expert " << expert;
    }
  }
}

// Fewer sequences than ranks, a number that no micro-batch divides, and all.
class EvaluateOverRanks : public testing::TestWithParam<int> {};

TEST_P(EvaluateOverRanks, EqualsOneRank) {
  const std::string text = test::tiny_text_file();
  config::Experiment experiment = test::tiny_experiment(text);
  experiment.mutable_model()->set_init_std(0.3);  // so that experts matter
  experiment.mutable_moe()->set_experts(5);
  experiment.mutable_moe()->set_capacity_factor(0.1);
  experiment.mutable_data()->add_train()->CopyFrom(experiment.data().train(0));
  experiment.mutable_data()->mutable_train(1)->set_name("again");

  test::apply(experiment, "supervised");

  Trainer trainer(experiment, test::world());
  const auto alone = make_self_communicator();
  Trainer reference(experiment, *alone);
  const Evaluation actual = run(trainer, GetParam());
  const Evaluation expected = run(reference, GetParam());

  ASSERT_EQ(actual.sources.size(), 2U);
  for (std::size_t source = 0; source < 2; ++source) {
    EXPECT_EQ(actual.sources[source].name, expected.sources[source].name);
    EXPECT_EQ(actual.sources[source].targets, expected.sources[source].targets);
    // Sums of fp32 losses of order ln 256, from logits that are sums of some hundred terms.
    EXPECT_NEAR(actual.sources[source].loss_sum, expected.sources[source].loss_sum,
                1000 * 1.2e-7 * expected.sources[source].loss_sum);
    // Only the first of the two sources has experts of its own.
    EXPECT_EQ(actual.sources[source].labelled_tokens, expected.sources[source].labelled_tokens);
    EXPECT_EQ(actual.sources[source].router_accuracy().has_value(), source == 0);
    EXPECT_NEAR(static_cast<double>(actual.sources[source].labelled_hits),
                static_cast<double>(expected.sources[source].labelled_hits), 2);
    expect_same_loads(actual.sources[source].expert_loads, expected.sources[source].expert_loads);
  }
  // The same bits on every rank.
  double largest = actual.loss();
  double smallest = actual.loss();
  test::world().all_reduce(buffer_view(std::span(&largest, 1)), ReduceOp::kMax);
  test::world().all_reduce(buffer_view(std::span(&smallest, 1)), ReduceOp::kMin);
  EXPECT_EQ(largest, smallest);
}

INSTANTIATE_TEST_SUITE_P(Limits, EvaluateOverRanks, testing::Values(1, 7, 0),
                         [](const auto& limit) { return "limit_" + std::to_string(limit.param); });

}  // namespace
}  // namespace conclave
