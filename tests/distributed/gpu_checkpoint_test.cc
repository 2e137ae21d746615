// ranks: 1 2
// A run goes on on the other device: the same state makes the same files, and either continues from them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "tests/support/deviation.h"
#include "tests/support/gpus_of_ranks.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/progress.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class GpuCheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = test::missing_gpus(); !why.empty()) GTEST_SKIP() << why;
  }
  Trainer on(config::Run::Device device) {
    experiment_.mutable_run()->set_device(device);
    return Trainer(experiment_, test::world());
  }
  SaveResult save(Trainer& trainer, const std::string& name, std::int64_t step) {
    return save_checkpoint(trainer.grid, directory_.path() / name, progress_after(trainer, step),
                           trainer.checkpoint_tensors(),
                           /*keep=*/10);
  }
  void load(Trainer& trainer, const SaveResult& saved) {
    const std::vector<ShardedTensor> tensors = trainer.checkpoint_tensors();
    go_on_from(trainer, load_checkpoint(test::world(), saved.path, tensors));
  }

  test::EmulatedGpus gpus_{2};
  test::TemporaryDirectory directory_{test::world()};
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
};

TEST_F(GpuCheckpointTest, EitherDeviceContinuesFromTheOthersFiles) {
  for (const auto from : {config::Run::cpu, config::Run::cuda}) {
    const auto to = from == config::Run::cpu ? config::Run::cuda : config::Run::cpu;
    const std::string name = config::Run::Device_Name(from);
    SCOPED_TRACE(name);
    Trainer first = on(from);
    train_step(first, 0);
    const SaveResult saved = save(first, name, 1);
    ASSERT_TRUE(saved.saved) << saved.message;

    Trainer second = on(to);
    load(second, saved);
    EXPECT_EQ(test::all_of(first, &Parameter::value), test::all_of(second, &Parameter::value));
    const SaveResult again = save(second, name + "_again", 1);
    ASSERT_TRUE(again.saved) << again.message;
    const std::string file = fmt::format("rank_{:05}.safetensors", test::world().rank());
    EXPECT_EQ(read_file(saved.path / file), read_file(again.path / file));
    EXPECT_FALSE(read_file(saved.path / file).empty());

    // The next step is one of the same model, but for rounding (as in gpu_training_test).
    Trainer perturbed = on(from);
    load(perturbed, saved);
    test::perturb(perturbed);
    const StepResult expected = train_step(first, 1);
    const test::Deviation amplified = test::deviation(perturbed, train_step(perturbed, 1), first, expected);
    const test::Deviation actual = test::deviation(second, train_step(second, 1), first, expected);
    constexpr double kRoundings = 16;
    constexpr double kUnit = std::numeric_limits<float>::epsilon();
    EXPECT_LE(actual.loss, kRoundings * (amplified.loss + kUnit));
    EXPECT_LE(actual.norm, kRoundings * (amplified.norm + kUnit));
    EXPECT_LE(actual.gradient, kRoundings * (amplified.gradient + kUnit));
  }
}

}  // namespace
}  // namespace conclave
