// Models whose MoE layers are launched as CUDA graphs (run.cuda_graphs) compute what they compute without, to
// the last bit: losses, gradients, values, the state of the routers and what they count.
//
// ranks: 1 3
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "layers/moe/moe_layer.h"
#include "tests/support/gpus_of_ranks.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr std::int64_t kSteps = 3;
constexpr std::int64_t kEvaluatedAfter = 0;  // step
constexpr std::int64_t kGlobalBatch = 6;     // in micro-batches of one sequence

config::Experiment experiment_of(const std::string& variant) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_run()->set_device(config::Run::cuda);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_pad_to_capacity(true);
  moe.set_capacity_factor(0.75);  // some choices are dropped, and some rows are filled up
  moe.set_z_loss(1e-3);
  experiment.mutable_train()->set_steps(kSteps);
  experiment.mutable_train()->set_global_batch(kGlobalBatch);
  experiment.mutable_train()->set_micro_batch(1);
  test::apply(experiment, variant);
  if (variant == "bf16") experiment.mutable_precision()->set_compute(config::Precision::bf16);
  if (variant == "chunks") experiment.mutable_parallel()->set_exchange_chunks(2);
  if (variant == "by_weight") {
    moe.set_drop(config::Moe::probability);
    moe.set_renormalize_after_drop(true);
    moe.set_balance_scope(config::Moe::global_batch);
  }
  if (variant == "recompute_experts") experiment.mutable_train()->set_recompute(config::Train::experts);
  if (variant == "overlap") {
    experiment.mutable_parallel()->set_overlap_reduction(true);
    experiment.mutable_optim()->set_zero(1);
  }
  if (variant == "uneven") {
    experiment.mutable_train()->set_global_batch(7);
    experiment.mutable_train()->set_micro_batch(2);
  }
  return experiment;
}

// What a run has computed when it ends, and how many passes of its MoE layers were replays.
struct Trained {
  std::vector<double> losses;
  std::vector<double> gradient_norms;
  std::vector<float> gradients;  // of the last step
  std::vector<float> values;
  std::vector<std::byte> router_state;
  std::vector<std::int64_t> counts;
  std::vector<double> sums;
  std::int64_t replays = 0;
};

void evaluate(Trainer& trainer) {
  const std::int64_t length = trainer.dataset.sequence_length();
  const std::int64_t sequences = trainer.batch.input_view().extent(0) / length;
  Context ctx = trainer.context({.sequences = sequences,
                                 .sequence_length = length,
                                 .most_sequences = sequences,
                                 .global_sequences = test::world().size() * sequences},
                                /*training=*/false);
  trainer.model.forward(ctx, trainer.batch.input_view(), trainer.batch.target_view());
  trainer.synchronize();
  trainer.arena.reset();
}

Trained train(config::Experiment experiment, bool with_graphs) {
  experiment.mutable_run()->set_cuda_graphs(with_graphs);
  Trainer trainer(experiment, test::world());
  Trained trained;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const StepResult result = train_step(trainer, step);
    trained.losses.push_back(result.loss);
    trained.gradient_norms.push_back(result.gradient_norm);
    if (step == kEvaluatedAfter) evaluate(trainer);
  }
  trained.gradients = test::all_of(trainer, &Parameter::gradient);
  trained.values = test::all_of(trainer, &Parameter::value);
  trained.router_state = test::router_state(trainer);
  for (const Model::IndexedMoeLayer& indexed : trainer.model.moe_layers()) {
    const MoeStatistics& counted = indexed.layer->statistics();
    trained.counts.push_back(counted.tokens);
    for (const auto* of : {&counted.chosen_per_expert, &counted.chosen_per_choice,
                           &counted.dropped_per_choice, &counted.sent_per_rank})
      trained.counts.insert(trained.counts.end(), of->begin(), of->end());
    trained.sums.insert(trained.sums.end(),
                        {counted.router_entropy_sum, counted.balance_loss_raw, counted.z_loss_raw});
    trained.replays += dynamic_cast<MoeLayer&>(*indexed.layer).replays();
  }
  return trained;
}

class GpuGraphsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const std::string why = test::missing_gpus(); !why.empty()) GTEST_SKIP() << why;
  }
  static void expect_the_same(const Trained& replayed, const Trained& launched) {
    EXPECT_EQ(replayed.losses, launched.losses);
    EXPECT_EQ(replayed.gradient_norms, launched.gradient_norms);
    EXPECT_TRUE(replayed.gradients == launched.gradients);
    EXPECT_TRUE(replayed.values == launched.values);
    EXPECT_EQ(replayed.router_state, launched.router_state);
    EXPECT_EQ(replayed.counts, launched.counts);
    EXPECT_EQ(replayed.sums, launched.sums);
    EXPECT_EQ(launched.replays, 0);
  }

  test::EmulatedGpus gpus_{3};
  test::Environment races_{"CONCLAVE_EMULATION_RACES", "0"};  // of these kernels others look for
};

TEST_P(GpuGraphsTest, GiveTheSameBits) {
  const config::Experiment experiment = experiment_of(GetParam());
  const Trained replayed = train(experiment, /*with_graphs=*/true);
  expect_the_same(replayed, train(experiment, /*with_graphs=*/false));
  EXPECT_GT(replayed.replays, 0);
}

INSTANTIATE_TEST_SUITE_P(Variants, GpuGraphsTest,
                         testing::Values("base", "sigmoid", "gateless", "bf16", "chunks", "by_weight",
                                         "recompute_experts", "expert_choice", "hierarchical", "overlap",
                                         "overrides"),
                         [](const auto& variant) { return std::string(variant.param); });

// Micro-batches of two sizes in turn: nothing is replayed, and nothing is wrong.
TEST_F(GpuGraphsTest, ShapesThatChangeAreComputedAsEver) {
  const config::Experiment experiment = experiment_of("uneven");
  expect_the_same(train(experiment, /*with_graphs=*/true), train(experiment, /*with_graphs=*/false));
}

TEST_F(GpuGraphsTest, ReplaysAllPassesButTheFirstOfTheirKind) {
  if (test::world().size() > 1) GTEST_SKIP() << "of one rank alone";
  const Trained replayed = train(experiment_of("base"), /*with_graphs=*/true);
  constexpr std::int64_t kLayers = 2;
  // At the beginning and after the evaluation one micro-batch finds everything new; the next one is recorded,
  // and so is the first of a step, which adds to nothing.
  constexpr std::int64_t kOthers = 2 + 2 + 1;
  EXPECT_EQ(replayed.replays, kLayers * 2 * (kSteps * kGlobalBatch - kOthers));
}

}  // namespace
}  // namespace conclave
