// Whole runs in this process: what a loss spike does to them.
#include "trainer/train_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

constexpr std::int64_t kSteps = 300;
constexpr std::int64_t kGlobalBatch = 4;

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class LossSpikeRunTest : public testing::Test {
 protected:
  // A text that is learned in some steps, but for one window of noise in each epoch of 75 steps.
  LossSpikeRunTest() {
    const std::string path = directory_.path() / "text.txt";
    const RandomStream random(5, "noise");
    std::string text;
    while (text.size() < 6000) text += "abcdefgh";
    for (std::size_t i = 0; i < 20; ++i) text[3000 + i] = static_cast<char>(random.bits(i) % 256);
    std::ofstream(path, std::ios::binary) << text;

    experiment_ = test::tiny_experiment(path);
    experiment_.mutable_model()->set_layers(1);
    experiment_.mutable_optim()->set_lr(1e-2);
    experiment_.mutable_schedule()->set_kind(config::Schedule::constant);
    config::Train& train = *experiment_.mutable_train();
    train.set_steps(kSteps);
    train.set_global_batch(kGlobalBatch);
    train.set_micro_batch(kGlobalBatch);
    train.set_eval_every(0);
    experiment_.mutable_checkpoint()->set_every(20);
    experiment_.mutable_checkpoint()->set_keep(100);
    experiment_.mutable_log()->set_every(1);
    experiment_.mutable_log()->set_tensorboard(false);
  }

  std::filesystem::path directory(const std::string& name) const { return directory_.path() / name; }

  // Trains in the directory `name`; returns what was said.
  std::string run(const std::string& name, config::Train::Spike rule, std::int64_t stop_after = 0) {
    experiment_.mutable_run()->set_dir(directory(name));
    experiment_.mutable_train()->set_spike(rule);
    experiment_.mutable_train()->set_stop_after(stop_after);
    testing::internal::CaptureStdout();
    const ExitCode code = train(experiment_, *alone_);
    std::string said = testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, stop_after > 0 ? ExitCode::kRequeue : ExitCode::kDone);
    return said;
  }

  TrainingProgress last_progress(const std::string& name) const {
    return read_progress(*find_newest_checkpoint(directory(name)));
  }
  std::string last_tensors(const std::string& name) const {
    return contents(*find_newest_checkpoint(directory(name)) / "rank_00000.safetensors");
  }
  // The steps of the records, in their order.
  std::vector<std::int64_t> recorded_steps(const std::string& name) const {
    const std::string text = contents(directory(name) / "metrics.jsonl");
    const std::regex step("\"type\":\"step\",\"step\":([0-9]+)");
    std::vector<std::int64_t> steps;
    for (std::sregex_iterator i(text.begin(), text.end(), step); i != std::sregex_iterator(); ++i) {
      steps.push_back(std::stoll((*i)[1]));
    }
    return steps;
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  config::Experiment experiment_;
};

// The step of the last spike that `said` names, from 1.
std::int64_t spike_step(const std::string& said) {
  const std::regex spike("step ([0-9]+)[a-z ]*: loss [0-9.]+ is a spike");
  std::int64_t step = 0;
  for (std::sregex_iterator i(said.begin(), said.end(), spike); i != std::sregex_iterator(); ++i) {
    step = std::stoll((*i)[1]);
  }
  return step;
}

TEST_F(LossSpikeRunTest, RewindsAndLeavesTheSamplesOut) {
  const std::string said = run("straight", config::Train::rewind);
  const std::int64_t spike = spike_step(said);
  ASSERT_GT(spike, 0) << said;
  EXPECT_THAT(said, testing::HasSubstr(fmt::format("goes on after step {} of", (spike - 1) / 20 * 20)));

  const TrainingProgress progress = last_progress("straight");
  const auto left_out = static_cast<std::int64_t>(progress.left_out_batches.size());
  EXPECT_GE(left_out, 1);
  EXPECT_EQ(progress.step, kSteps);
  EXPECT_EQ(progress.optimizer_updates, kSteps) << "each step made its update, once";
  EXPECT_EQ(progress.next_sample, (kSteps + left_out) * kGlobalBatch);
  for (const std::int64_t batch : progress.left_out_batches) {
    EXPECT_THAT(said, testing::HasSubstr(fmt::format("samples {} to {}", batch * kGlobalBatch,
                                                     (batch + 1) * kGlobalBatch - 1)));
  }
  std::vector<std::int64_t> every_step;
  for (std::int64_t step = 1; step <= kSteps; ++step) every_step.push_back(step);
  EXPECT_EQ(recorded_steps("straight"), every_step);

  // Stopped with the spike's window behind it, once before the spike and once after.
  for (const std::int64_t stop : {spike - 3, spike + 3}) {
    const std::string name = fmt::format("stopped_{}", stop);
    run(name, config::Train::rewind, stop);
    run(name, config::Train::rewind);
    EXPECT_EQ(last_tensors(name), last_tensors("straight")) << "stopped after step " << stop;
    EXPECT_EQ(last_progress(name).left_out_batches, progress.left_out_batches);
    EXPECT_EQ(last_progress(name).recent_losses, progress.recent_losses);
  }
}

// A rate that throws the weights out of range at once: no later loss is a number.
TEST_F(LossSpikeRunTest, ARunWhoseLossStaysNotANumberEnds) {
  experiment_.mutable_optim()->set_lr(1e30);
  experiment_.mutable_train()->set_max_skipped_steps(7);
  experiment_.mutable_checkpoint()->set_every(1);
  experiment_.mutable_checkpoint()->set_keep(1);
  experiment_.mutable_run()->set_dir(directory("broken"));
  testing::internal::CaptureStdout();
  std::string error;
  try {
    train(experiment_, *alone_);
  } catch (const SharedError& failure) {
    error = failure.what();
  }
  const std::string said = testing::internal::GetCapturedStdout();
  EXPECT_THAT(error, testing::HasSubstr("in 7 steps in a row"));
  EXPECT_THAT(said, testing::HasSubstr("skipped: loss"));
  const TrainingProgress progress = last_progress("broken");
  EXPECT_LT(progress.optimizer_updates, 7) << "and no skipped step made an update";
}

TEST_F(LossSpikeRunTest, SkipsOrKeeps) {
  const std::string skipped = run("skipped", config::Train::skip);
  ASSERT_GT(spike_step(skipped), 0);
  EXPECT_THAT(skipped, testing::HasSubstr("skipped: loss"));
  EXPECT_LT(last_progress("skipped").optimizer_updates, kSteps);
  EXPECT_EQ(last_progress("skipped").next_sample, kSteps * kGlobalBatch);

  const std::string kept = run("kept", config::Train::keep);
  EXPECT_EQ(spike_step(kept) > 0, true);
  EXPECT_EQ(last_progress("kept").optimizer_updates, kSteps);
}

}  // namespace
}  // namespace conclave
