#include "trainer/loaded_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/operator_test.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

// Evaluation and generation choose experts as training did: by weights and bias.
TEST(LoadedModel, HasTheWeightsAndTheRouterStateOfTheRun) {
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  const test::TemporaryDirectory directory;
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  test::apply(experiment, "sigmoid");
  Trainer trainer(experiment, *alone);
  for (std::int64_t step = 0; step < 3; ++step) train_step(trainer, step);  // biases go up and down
  const SaveResult saved =
      save_checkpoint(trainer.grid, directory.path(), {.step = 3, .seed = 1, .resolved_config = ""},
                      trainer.checkpoint_tensors(), /*keep=*/1);
  ASSERT_TRUE(saved.saved) << saved.message;

  const LoadedModel loaded = load_model(saved.path, experiment, *alone);
  const std::vector<Parameter*>& parameters = trainer.model.parameters();
  ASSERT_EQ(loaded.model->parameters().size(), parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(test::copy_of(loaded.model->parameters()[i]->value()), test::copy_of(parameters[i]->value()))
        << parameters[i]->name();
  }
  const std::vector<ShardedTensor> expected = trainer.model.state();
  const std::vector<ShardedTensor> actual = loaded.model->state();
  ASSERT_EQ(actual.size(), 2U);  // of two layers
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].name, expected[i].name);
    const std::vector<float> bias = test::copy_of(actual[i].local);
    EXPECT_EQ(bias, test::copy_of(expected[i].local));
    EXPECT_GT(std::ranges::max(bias), 0) << "a bias that says something";
  }
}

// A run that goes on with another seed, as checkpoint.allow_changes lets it, must not send tokens elsewhere.
TEST(LoadedModel, KeepsTheHashTableOfTheRunUnderAnotherSeed) {
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  const test::TemporaryDirectory directory;
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  test::apply(experiment, "hash");
  Trainer trainer(experiment, *alone);
  const SaveResult saved =
      save_checkpoint(trainer.grid, directory.path(), {.step = 1, .seed = 1, .resolved_config = ""},
                      trainer.checkpoint_tensors(), /*keep=*/1);
  ASSERT_TRUE(saved.saved) << saved.message;

  experiment.mutable_run()->set_seed(experiment.run().seed() + 1);
  const auto tables_of = [](Model& model) {
    std::vector<std::vector<std::int32_t>> tables;
    for (const ShardedTensor& tensor : model.state()) {
      const auto table = tensor.local.values<std::int32_t>();
      tables.emplace_back(table.begin(), table.end());
    }
    return tables;
  };
  EXPECT_NE(tables_of(Trainer(experiment, *alone).model), tables_of(trainer.model))
      << "the seed says nothing";
  const LoadedModel loaded = load_model(saved.path, experiment, *alone);
  EXPECT_EQ(tables_of(*loaded.model), tables_of(trainer.model));
}

}  // namespace
}  // namespace conclave
