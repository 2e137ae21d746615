// ranks: 1 2 3
// The record of a training step on these ranks against the same one on one rank.
#include "trainer/inspect/routing_recorder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "comm/self/self_communicator.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

// Five sequences in micro-batches of two: ranks get different numbers, some of them none.
config::Experiment recorded_experiment(const std::filesystem::path& directory) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_model()->set_init_std(0.3);  // so that experts are clearly preferred
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment.mutable_moe()->set_capacity_factor(0);  // drops depend on the layout, and so do later layers
  experiment.mutable_train()->set_global_batch(5);
  experiment.mutable_data()->add_train()->CopyFrom(experiment.data().train(0));
  experiment.mutable_data()->mutable_train(1)->set_name("again");
  experiment.mutable_log()->set_routing(directory.string());
  experiment.mutable_log()->set_routing_every(2);
  return experiment;
}

std::string train_steps(const config::Experiment& experiment, Communicator& world, std::int64_t steps) {
  Trainer trainer(experiment, world);
  std::string failures;
  for (std::int64_t step = 0; step < steps; ++step) {
    train_step(trainer, step);
    failures += trainer.routing_recorder.end_step(step);
  }
  return failures;
}

TEST(RoutingRecorder, WritesTheSameRecordInEveryLayout) {
  const test::TemporaryDirectory directory(test::world());
  EXPECT_EQ(train_steps(recorded_experiment(directory.path() / "all"), test::world(), 3), "");
  if (test::world().rank() != 0) return;
  const auto alone = make_self_communicator();
  EXPECT_EQ(train_steps(recorded_experiment(directory.path() / "alone"), *alone, 3), "");

  const auto paths = find_routing_records(directory.path() / "all");
  ASSERT_EQ(paths.size(), 1U);  // of steps 1, 2, 3 only 2 is one of every second
  const RoutingRecord actual = read_routing_record(paths[0]);
  const RoutingRecord expected = read_routing_record(routing_record_path(directory.path() / "alone", 2));
  EXPECT_EQ(actual.step, 2);
  EXPECT_EQ(actual.trace.size(), 5 * 19);
  EXPECT_EQ(actual.trace.tokens, expected.trace.tokens);
  EXPECT_EQ(actual.trace.sources, expected.trace.sources);
  EXPECT_EQ(actual.trace.source_of_token, expected.trace.source_of_token);
  ASSERT_EQ(actual.trace.layers.size(), expected.trace.layers.size());
  for (std::size_t i = 0; i < actual.trace.layers.size(); ++i) {
    const LayerRouting& layer = actual.trace.layers[i];
    const LayerRouting& wanted = expected.trace.layers[i];
    ASSERT_EQ(layer.chosen.size(), wanted.chosen.size());
    // Rounding may decide a near tie either way.
    int others = 0;
    for (std::size_t k = 0; k < layer.chosen.size(); ++k) {
      if (layer.chosen[k] != wanted.chosen[k]) {
        ++others;
      } else {
        // fp32 probabilities behind two layers of sums of some hundred terms, after one update.
        EXPECT_NEAR(layer.weights[k], wanted.weights[k], 1e-4);
      }
    }
    EXPECT_LE(others, 2);
    ASSERT_EQ(layer.entropy.size(), wanted.entropy.size());
    for (std::size_t t = 0; t < layer.entropy.size(); ++t)
      EXPECT_NEAR(layer.entropy[t], wanted.entropy[t], 1e-3);
  }
}

TEST(RoutingRecorder, AFailedWriteIsToldToAllAndEndsNothing) {
  const test::TemporaryDirectory directory(test::world());
  const std::filesystem::path file = directory.path() / "file";
  if (test::world().rank() == 0) std::ofstream(file) << "in the way";
  test::world().barrier();
  const std::string failure = train_steps(recorded_experiment(file), test::world(), 2);
  EXPECT_NE(failure.find("step_000002.safetensors was not written"), std::string::npos) << failure;
}

TEST(RoutingRecorder, ADenseModelRecordsNothing) {
  const test::TemporaryDirectory directory(test::world());
  config::Experiment experiment = recorded_experiment(directory.path() / "dense");
  experiment.mutable_moe()->set_experts(0);
  EXPECT_EQ(train_steps(experiment, test::world(), 2), "");
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "dense"));
}

}  // namespace
}  // namespace conclave
