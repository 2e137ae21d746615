// ranks: 1 2 3 4
// parallel.exchange_chunks changes when rows travel and nothing else: losses, gradients, weights, router
// state and statistics of whole training steps are those of one chunk, bit for bit, with every kind of router
// and expert. 5 experts: uneven shards, and ranks with fewer experts than chunks.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "layers/moe/routed_layer.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr std::int64_t kSteps = 2;

// Trains the experiment with one chunk and with so many, side by side.
void expect_same_bits(config::Experiment experiment,
                      const std::vector<std::int64_t>& numbers_of_chunks = {2}) {
  Trainer whole(experiment, test::world());
  std::vector<std::unique_ptr<Trainer>> others;
  for (const std::int64_t chunks : numbers_of_chunks) {
    experiment.mutable_parallel()->set_exchange_chunks(chunks);
    others.push_back(std::make_unique<Trainer>(experiment, test::world()));
  }
  for (std::int64_t step = 0; step < kSteps; ++step) {
    std::vector<float> gradients;
    const StepResult expected =
        train_step(whole, step, [&] { gradients = test::all_of(whole, &Parameter::gradient); });
    std::vector<MoeStatistics> statistics;
    for (const auto& [block, layer] : whole.model.moe_layers())
      statistics.push_back(layer->take_statistics());

    for (const auto& other : others) {
      SCOPED_TRACE(testing::Message()
                   << "step " << step << ", chunks " << other->experiment.parallel().exchange_chunks());
      const StepResult result = train_step(*other, step, [&] {
        EXPECT_TRUE(test::all_of(*other, &Parameter::gradient) == gradients) << "gradients differ";
      });
      EXPECT_EQ(result.loss, expected.loss);
      EXPECT_EQ(result.gradient_norm, expected.gradient_norm);
      EXPECT_TRUE(test::all_of(*other, &Parameter::value) == test::all_of(whole, &Parameter::value))
          << "weights differ";
      EXPECT_EQ(test::router_state(*other), test::router_state(whole));
      for (std::size_t layer = 0; layer < statistics.size(); ++layer) {
        const MoeStatistics actual = other->model.moe_layers()[layer].layer->take_statistics();
        EXPECT_EQ(actual.chosen_per_expert, statistics[layer].chosen_per_expert);
        EXPECT_EQ(actual.dropped_per_choice, statistics[layer].dropped_per_choice);
        EXPECT_EQ(actual.sent_per_rank, statistics[layer].sent_per_rank);
      }
    }
  }
}

config::Experiment uneven_experiment() {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_moe()->set_experts(5);
  experiment.mutable_moe()->set_capacity_factor(1);  // something is dropped
  experiment.mutable_train()->set_global_batch(6);   // several micro-batches on few ranks
  return experiment;
}

// On two ranks the second has an empty chunk, and on four there is one chunk of one expert for most.
TEST(ExchangeChunksTest, ChangeNoBitWhateverTheirNumber) { expect_same_bits(uneven_experiment(), {2, 3, 5}); }

class ExchangeChunks : public testing::TestWithParam<const char*> {};

TEST_P(ExchangeChunks, ChangeNoBit) {
  config::Experiment experiment = uneven_experiment();
  test::apply(experiment, GetParam());
  expect_same_bits(experiment);
}

INSTANTIATE_TEST_SUITE_P(Variants, ExchangeChunks,
                         testing::Values("shared", "switch", "sigmoid", "groups", "gshard", "noisy_top_k",
                                         "hierarchical", "hash", "expert_choice", "pad_to_capacity",
                                         "dropout", "gateless", "overrides", "dense_mixture", "top_all",
                                         "force_balanced"),
                         [](const auto& variant) { return std::string(variant.param); });

TEST(ExchangeChunksTest, ChangeNoBitInBf16) {
  config::Experiment experiment = uneven_experiment();
  experiment.mutable_precision()->set_compute(config::Precision::auto_);
  Trainer trainer(experiment, test::world());
  if (trainer.compute != DType::kBFloat16) GTEST_SKIP() << "this processor has no AVX512-BF16";
  test::apply(experiment, "dropout");
  expect_same_bits(experiment);
}

TEST(ExchangeChunksTest, ChangeNoBitOfWhatIsComputedAgain) {
  for (const auto recompute : {config::Train::experts, config::Train::block}) {
    config::Experiment experiment = uneven_experiment();
    test::apply(experiment, "dropout");
    experiment.mutable_train()->set_recompute(recompute);
    expect_same_bits(experiment);
  }
}

// Sources kept apart, gradients summed exactly: parts within chunks.
TEST(ExchangeChunksTest, ChangeNoBitWithRowsBySource) {
  config::Experiment experiment = uneven_experiment();
  experiment.mutable_run()->set_determinism(config::Run::cross_layout);
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  expect_same_bits(experiment);
}

TEST(ExchangeChunksTest, ChangeNoBitOnAnyPath) {
  for (const auto path : {config::Parallel::mpi, config::Parallel::hierarchical}) {
    config::Experiment experiment = uneven_experiment();
    experiment.mutable_parallel()->set_exchange(path);
    if (path == config::Parallel::hierarchical) experiment.mutable_parallel()->set_ranks_per_node(2);
    expect_same_bits(experiment);
  }
  test::world().set_paths({});  // as other tests expect it
}

// Fewer sequences than ranks: some have no token at all, and send and receive nothing or little.
TEST(ExchangeChunksTest, ChangeNoBitWhereRanksHaveNoTokens) {
  config::Experiment experiment = uneven_experiment();
  experiment.mutable_train()->set_global_batch(1);
  expect_same_bits(experiment);
}

// Every rank a copy of half of the experts.
TEST(ExchangeChunksTest, ChangeNoBitWithReplicasOfExperts) {
  if (test::world().size() != 4) GTEST_SKIP() << "needs 4 ranks";
  config::Experiment experiment = uneven_experiment();
  experiment.mutable_parallel()->set_expert_parallel_size(2);
  expect_same_bits(experiment);
}

}  // namespace
}  // namespace conclave
