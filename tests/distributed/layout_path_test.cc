// ranks: 4
// One run that moves from layout to layout through its checkpoints: 1 -> 2 -> 4 -> 3 -> 1 ranks, 15 steps on
// each. What each loads is what the one before it saved, every sample is used exactly once an epoch, and the
// losses are those of the run that stayed on one rank: bit for bit with run.determinism: cross_layout, else
// within 1e-6.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "comm/self/self_communicator.h"
#include "configs/show.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/compare_checkpoints.h"
#include "trainer/data/dataset.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using test::world;

struct Stage {
  int ranks;
  int expert_parallel_size;
  int zero;
};
// 4 experts: one, two and four shards of equal size, three of unequal size; two copies of them with their
// optimizer state shared out.
constexpr std::array<Stage, 5> kPath{{{1, 1, 0}, {2, 2, 0}, {4, 2, 1}, {3, 3, 1}, {1, 1, 0}}};
constexpr std::int64_t kStepsOfStage = 15;
constexpr std::int64_t kSteps = kStepsOfStage * kPath.size();

config::Experiment experiment_of(const Stage& stage, config::Run::Determinism determinism) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_run()->set_determinism(determinism);
  // What doesn't depend on how a step is cut.
  experiment.mutable_moe()->set_capacity_factor(0);
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment.mutable_data()->set_valid_fraction(0.93);  // a short epoch
  experiment.mutable_train()->set_steps(kSteps);
  experiment.mutable_parallel()->set_expert_parallel_size(stage.expert_parallel_size);
  experiment.mutable_optim()->set_zero(stage.zero);
  return experiment;
}

SaveResult save(Trainer& trainer, const fs::path& run_dir, std::int64_t step) {
  const std::int64_t samples = step * trainer.experiment.train().global_batch();
  return save_checkpoint(
      trainer.grid, run_dir,
      {step, samples, samples, trainer.optimizer->updates(), 1, config::to_yaml(trainer.experiment)},
      trainer.checkpoint_tensors(), 100);
}

// How often a step uses each global sample, by this rank.
void count_samples(Trainer& trainer, std::int64_t step, std::vector<std::int64_t>& uses) {
  const data::BatchCut cut = batch_cut(trainer.experiment, trainer.world.size());
  for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
    const Range mine = cut.sequences(micro_step, trainer.world.rank());
    for (std::int64_t i = mine.begin; i < mine.end; ++i)
      ++uses[static_cast<std::size_t>(step * cut.global_batch + i)];
  }
}

// Resumes, shows that what was loaded is what was saved, and goes on. Adds the losses of its steps.
void run_stage(const config::Experiment& experiment, Communicator& ranks, const fs::path& directory,
               std::int64_t first_step, std::vector<double>& losses, std::vector<std::int64_t>& uses) {
  Trainer trainer(experiment, ranks);
  const std::vector<ShardedTensor> tensors = trainer.checkpoint_tensors();
  const ResumeResult resumed =
      resume_newest(ranks, directory / "run", tensors, [](const TrainingProgress&) {});
  if (first_step > 0) {
    ASSERT_TRUE(resumed.progress.has_value());
    ASSERT_EQ(resumed.progress->step, first_step);
    EXPECT_EQ(resumed.progress->next_sample, first_step * trainer.experiment.train().global_batch());
    trainer.optimizer->set_updates(resumed.progress->optimizer_updates);
    const SaveResult again = save(trainer, directory / "again", first_step);
    ASSERT_TRUE(again.saved) << again.message;
    if (ranks.rank() == 0) {
      const CheckpointComparison comparison = compare_checkpoints(resumed.path, again.path);
      EXPECT_TRUE(comparison.same_tensors());
      EXPECT_EQ(comparison.identical, static_cast<std::int64_t>(tensors.size()));
    }
  }
  for (std::int64_t step = first_step; step < first_step + kStepsOfStage; ++step) {
    losses.push_back(train_step(trainer, step).loss);
    count_samples(trainer, step, uses);
  }
  const SaveResult saved = save(trainer, directory / "run", first_step + kStepsOfStage);
  ASSERT_TRUE(saved.saved) << saved.message;
}

class LayoutPath : public testing::TestWithParam<config::Run::Determinism> {};

TEST_P(LayoutPath, OneRunOnManyLayouts) {
  const test::TemporaryDirectory directory(world());
  const config::Experiment experiment = experiment_of(kPath[0], GetParam());
  std::vector<std::int64_t> uses(static_cast<std::size_t>(kSteps * experiment.train().global_batch()), 0);
  std::vector<double> losses;
  std::int64_t first_step = 0;
  for (const Stage& stage : kPath) {
    const bool takes_part = world().rank() < stage.ranks;
    const auto ranks = world().split(takes_part ? 0 : 1, world().rank(), "stage");
    if (takes_part)
      run_stage(experiment_of(stage, GetParam()), *ranks, directory.path(), first_step, losses, uses);
    first_step += kStepsOfStage;
    world().barrier().wait();
  }

  world().all_reduce(buffer_view(std::span(uses))).wait();
  const data::Dataset dataset(experiment);
  std::map<std::pair<std::int64_t, std::int64_t>, int> uses_of_window;  // by epoch and window
  for (std::size_t sample = 0; sample < uses.size(); ++sample) {
    EXPECT_EQ(uses[sample], 1) << "sample " << sample;
    const data::Sample where = dataset.training_sample(static_cast<std::int64_t>(sample));
    ++uses_of_window[{where.epoch, where.window}];
  }
  for (const auto& [where, count] : uses_of_window)
    EXPECT_EQ(count, 1) << where.first << ": " << where.second;
  const std::int64_t windows = dataset.sources()[0].training_windows;
  EXPECT_GE(uses.size(), static_cast<std::size_t>(2 * windows)) << "no two epochs";

  if (world().rank() != 0) return;
  const auto alone = make_self_communicator();
  Trainer stayed(experiment, *alone);
  double worst = 0;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const double loss = train_step(stayed, step).loss;
    worst = std::max(worst, std::abs(losses[static_cast<std::size_t>(step)] - loss));
    if (GetParam() == config::Run::cross_layout) {
      EXPECT_EQ(losses[static_cast<std::size_t>(step)], loss) << "step " << step;
    } else {
      EXPECT_NEAR(losses[static_cast<std::size_t>(step)], loss, 1e-6) << "step " << step;
    }
  }
  std::printf("largest difference of a loss over %lld steps: %.2g\n", static_cast<long long>(kSteps), worst);
}

INSTANTIATE_TEST_SUITE_P(Determinism, LayoutPath,
                         testing::Values(config::Run::same_layout, config::Run::cross_layout));

}  // namespace
}  // namespace conclave
