// A model trained on GPUs that NCCL connects, and on one GPU that all ranks share, gives the same bits:
// tokens, gradients and sharded updates travel on other ways, and nothing else differs. The GPUs are
// emulated.
//
// ranks: 2 3
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/start_report.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr std::int64_t kSteps = 3;

struct Trained {
  std::string way;
  std::string start_report;
  std::vector<double> losses;
  std::vector<float> values;
};

Trained train_on(int gpus, const config::Experiment& experiment) {
  const test::EmulatedGpus emulated(gpus);
  Trainer trainer(experiment, test::world());
  Trained trained;
  trained.way = trainer.world.describe_paths();
  trained.start_report = start_report(trainer);
  for (std::int64_t step = 0; step < kSteps; ++step) trained.losses.push_back(train_step(trainer, step).loss);
  trained.values = test::all_of(trainer, &Parameter::value);
  return trained;
}

class GpuPathsTest : public testing::TestWithParam<const char*> {};

TEST_P(GpuPathsTest, GiveTheSameBits) {
  const std::string variant = GetParam();
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_run()->set_device(config::Run::cuda);
  experiment.mutable_run()->set_allow_gpu_sharing(true);
  if (variant == "sharded_state") experiment.mutable_optim()->set_zero(1);
  if (variant == "overlap") experiment.mutable_parallel()->set_overlap_reduction(true);
  if (variant == "chunks") experiment.mutable_parallel()->set_exchange_chunks(2);
  if (variant == "graphs") {
    experiment.mutable_run()->set_cuda_graphs(true);
    experiment.mutable_moe()->set_pad_to_capacity(true);
    experiment.mutable_moe()->set_capacity_factor(0.75);
  }
  if (variant == "one_copy_a_rank") experiment.mutable_parallel()->set_expert_parallel_size(1);
  const Trained directly = train_on(test::world().size(), experiment);
  const Trained through_host = train_on(1, experiment);
  EXPECT_EQ(directly.way.substr(0, 5), "NCCL ");
  EXPECT_NE(directly.start_report.find("exchange   NCCL "), std::string::npos) << directly.start_report;
  EXPECT_NE(through_host.way.find("ranks share a GPU"), std::string::npos) << through_host.way;
  EXPECT_EQ(directly.losses, through_host.losses);
  EXPECT_TRUE(directly.values == through_host.values);
}

INSTANTIATE_TEST_SUITE_P(Variants, GpuPathsTest,
                         testing::Values("base", "sharded_state", "overlap", "chunks", "graphs",
                                         "one_copy_a_rank"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace conclave
