// ranks: 1 2
// Trained models loaded on GPUs and on the CPU: evaluation, generation and inspection say the same. The bound
// is that of gpu_training_test: one fp32 rounding of every weight, amplified as a second evaluation on the
// CPU measures it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "comm/cuda/runtime.h"
#include "comm/self/self_communicator.h"
#include "tests/support/deviation.h"
#include "tests/support/gpus_of_ranks.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/evaluate.h"
#include "trainer/generate.h"
#include "trainer/inspect/trace_text.h"
#include "trainer/loaded_model.h"
#include "trainer/progress.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

constexpr double kRoundings = 16;
constexpr double kUnit = std::numeric_limits<float>::epsilon();

class GpuLoadedModelTest : public testing::Test {
 protected:
  GpuLoadedModelTest() {
    experiment_.mutable_model()->set_init_std(0.3);  // so that experts matter
    if (test::world().size() == 1)
      guards_ = std::make_unique<test::Environment>("CONCLAVE_EMULATION_GUARDS", "1");
  }
  void SetUp() override {
    if (const std::string why = test::missing_gpus(); !why.empty()) GTEST_SKIP() << why;
  }
  // A few steps on the CPU.
  void train(const std::string& variant = "") {
    test::apply(experiment_, variant);
    experiment_.mutable_run()->set_device(config::Run::cpu);
    Trainer trainer(experiment_, test::world());
    for (std::int64_t step = 0; step < 3; ++step) train_step(trainer, step);
    const SaveResult saved = save_checkpoint(trainer.grid, directory_.path(), progress_after(trainer, 3),
                                             trainer.checkpoint_tensors(), /*keep=*/1);
    ASSERT_TRUE(saved.saved) << saved.message;
    checkpoint_ = saved.path;
  }
  LoadedModel load(config::Run::Device device, Communicator& ranks = test::world()) {
    experiment_.mutable_run()->set_device(device);
    LoadedModel loaded = load_model(checkpoint_, experiment_, ranks);
    EXPECT_EQ(loaded.device.gpu != nullptr, device == config::Run::cuda);
    return loaded;
  }
  Evaluation evaluate_all(LoadedModel& loaded) {
    const auto dataset = data::open_data(experiment_);
    Arena arena(loaded.device.memory());
    data::MicroBatch batch;
    return evaluate({.model = *loaded.model,
                     .dataset = *dataset,
                     .grid = *loaded.grid,
                     .arena = arena,
                     .batch = batch,
                     .gpu = loaded.device.gpu.get(),
                     .micro_batch = 2,
                     .max_sequences = 7});
  }

  test::EmulatedGpus gpus_{2};
  std::unique_ptr<test::Environment> guards_;
  test::TemporaryDirectory directory_{test::world()};
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
  std::filesystem::path checkpoint_;
};

class GpuEvaluationTest : public GpuLoadedModelTest, public testing::WithParamInterface<const char*> {};

TEST_P(GpuEvaluationTest, LossesAreThoseOfTheCpu) {
  train(GetParam());
  LoadedModel cpu = load(config::Run::cpu);
  LoadedModel perturbed = load(config::Run::cpu);
  test::perturb(*perturbed.model);
  LoadedModel gpu = load(config::Run::cuda);
  const Evaluation expected = evaluate_all(cpu);
  const Evaluation moved = evaluate_all(perturbed);
  const Evaluation actual = evaluate_all(gpu);
  const double amplified = std::abs(moved.loss() - expected.loss());
  EXPECT_NEAR(actual.loss(), expected.loss(), kRoundings * (amplified + kUnit * expected.loss()));
  ASSERT_EQ(actual.sources.size(), expected.sources.size());
  ASSERT_FALSE(actual.sources.empty());
  EXPECT_EQ(actual.sources[0].targets, expected.sources[0].targets);
  EXPECT_EQ(actual.sources[0].expert_loads, expected.sources[0].expert_loads);
}

INSTANTIATE_TEST_SUITE_P(Variants, GpuEvaluationTest,
                         testing::Values("", "sigmoid", "hash", "expert_choice", "masked"),
                         [](const auto& variant) {
                           return std::string(variant.param).empty() ? std::string("base")
                                                                     : std::string(variant.param);
                         });

TEST_F(GpuLoadedModelTest, InspectionShowsTheSameExperts) {
  train();
  InspectedText text{.name = "text", .tokens = {}, .file_tokens = {}};
  for (std::int32_t i = 0; i < 50; ++i) text.tokens.push_back(i * 37 % 256);  // more than one window
  const TracedTexts expected = trace_texts(load(config::Run::cpu), {text});
  const TracedTexts actual = trace_texts(load(config::Run::cuda), {text});
  EXPECT_EQ(actual.targets, 49);
  EXPECT_NEAR(actual.loss_sum, expected.loss_sum, 1e-5 * expected.loss_sum);
  ASSERT_EQ(actual.trace.layers.size(), 2U);
  for (std::size_t layer = 0; layer < 2; ++layer)
    EXPECT_EQ(actual.trace.layers[layer].chosen, expected.trace.layers[layer].chosen) << layer;
}

// Every rank for itself: the window is passed, the prompt is longer than a token, and the caches lie on the
// GPU.
TEST_F(GpuLoadedModelTest, GenerationTakesTheSameTokens) {
  train();
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  const auto generated = [&](config::Run::Device device) {
    const LoadedModel loaded = load(device, *alone);
    const std::vector<std::int32_t> prompt{1, 200, 30};
    std::vector<std::int32_t> tokens;
    generate({.model = loaded.language_model(),
              .grid = *loaded.grid,
              .gpu = loaded.device.gpu.get(),
              .max_seq = experiment_.model().max_seq(),
              .prompt = prompt,
              .count = 40,
              .sampling = {.temperature = 0}},
             [&](std::int32_t token) { tokens.push_back(token); });
    return tokens;
  };
  const std::vector<std::int32_t> tokens = generated(config::Run::cpu);
  ASSERT_EQ(tokens.size(), 40U);
  EXPECT_EQ(generated(config::Run::cuda), tokens);
}

TEST_F(GpuLoadedModelTest, AModelThatAsksForAGpuNamesTheWayOut) {
  train();
  const test::EmulatedGpus none(0);
  if (!cuda::gpus().empty()) GTEST_SKIP() << "this machine has a GPU";
  try {
    load(config::Run::cuda);
    ADD_FAILURE() << "loaded";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("run.device: cpu runs here"), std::string::npos);
  }
}

}  // namespace
}  // namespace conclave
