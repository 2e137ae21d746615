// Comparing, resharding and consolidating checkpoints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <thread>

#include "comm/base/error.h"
#include "tests/support/checkpoint_case.h"
#include "trainer/checkpoint/compare_checkpoints.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/rewrite_checkpoint.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/verify_checkpoint.h"
#include "trainer/commands/checkpoint_command.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class CheckpointToolsTest : public testing::Test {
 protected:
  fs::path saved(std::int64_t step) { return run_.save(step, static_cast<float>(step), 10).path; }
  // Runs a command line; its exit code, and in `output_` what it wrote.
  int command(const std::string& line) {
    CLI::App app;
    std::function<int()> selected;
    add_checkpoint_command(app, selected);
    app.parse("checkpoint " + line);
    testing::internal::CaptureStdout();
    try {
      const int code = selected();
      output_ = testing::internal::GetCapturedStdout();
      return code;
    } catch (...) {
      output_ = testing::internal::GetCapturedStdout();
      throw;
    }
  }

  test::CheckpointCase run_;
  std::string output_;
};

TEST_F(CheckpointToolsTest, ReshardingThereAndBackIsBitwise) {
  const fs::path original = saved(7);
  // Uneven: 5 experts on 3 and on 4 ranks; more ranks than tensors; two copies of the experts.
  for (const Layout layout : {Layout{3, 3}, Layout{4, 4}, Layout{4, 2}, Layout{9, 9}, Layout{2, 1}}) {
    SCOPED_TRACE(fmt::format("{} ranks, {}", layout.ranks, layout.expert_parallel_size));
    const fs::path there = run_.run_dir() / "there";
    const fs::path back = run_.run_dir() / "back";
    reshard_checkpoint(original, there, layout);
    EXPECT_THAT(verify_checkpoint(there).faults, IsEmpty());
    EXPECT_EQ(read_manifest(there).files_size(), layout.ranks);
    EXPECT_EQ(run_.load(there).step, 7);
    EXPECT_TRUE(run_.holds(7));
    EXPECT_EQ(compare_checkpoints(original, there).identical, 5);
    reshard_checkpoint(there, back, {1, 1});
    for (const char* name : {"rank_00000.safetensors", "manifest.pb"}) {
      EXPECT_EQ(read_file(back / name), read_file(original / name)) << name;
    }
    fs::remove_all(there);
    fs::remove_all(back);
  }
}

TEST_F(CheckpointToolsTest, ReshardingRefusesWhatItCannotDo) {
  const fs::path original = saved(7);
  const auto to = [&](const fs::path& target, Layout layout) {
    return [=] { reshard_checkpoint(original, target, layout); };
  };
  const fs::path target = run_.run_dir() / "target";
  EXPECT_THAT(to(target, {4, 3}), ThrowsMessage<Error>(HasSubstr("3 does not divide 4")));
  EXPECT_THAT(to(original, {2, 2}), ThrowsMessage<Error>(HasSubstr("exists")));
  EXPECT_THAT(to(run_.run_dir() / "step_000008", {2, 2}), ThrowsMessage<Error>(HasSubstr("step 7")));
  fs::resize_file(original / "rank_00000.safetensors", 100);
  EXPECT_THAT(to(target, {2, 2}), ThrowsMessage<Error>(HasSubstr("is damaged")));
  EXPECT_FALSE(fs::exists(target));
  EXPECT_FALSE(fs::exists(target.string() + ".tmp"));
}

TEST_F(CheckpointToolsTest, ConsolidatingGivesEveryTensorOnce) {
  const fs::path original = saved(7);
  const fs::path parts = run_.run_dir() / "parts";
  reshard_checkpoint(original, parts, {3, 3});
  const fs::path file = run_.run_dir() / "model.safetensors";
  EXPECT_EQ(consolidate_checkpoint(parts, file, /*with_optimizer_state=*/false).tensors, 4);
  const SafetensorsReader model(file);
  EXPECT_EQ(model.find("adamw.m/layers.0.moe.experts.down"), nullptr);
  EXPECT_EQ(model.metadata().at("step"), "7");
  EXPECT_EQ(model.metadata().at("config"), test::CheckpointCase::kConfig);
  EXPECT_EQ(consolidate_checkpoint(parts, file, true).tensors, 5);
  const SafetensorsReader all(file);
  const SafetensorsReader expected(original / "rank_00000.safetensors");
  ASSERT_EQ(all.entries().size(), expected.entries().size());
  for (const auto& [name, entry] : expected.entries()) {
    ASSERT_NE(all.find(name), nullptr) << name;
    EXPECT_EQ(all.find(name)->shape, entry.shape) << name;
    EXPECT_TRUE(std::ranges::equal(all.find(name)->bytes, entry.bytes)) << name;
  }
}

TEST_F(CheckpointToolsTest, ComparingMeasuresDifferences) {
  const auto set = [&](std::size_t tensor, std::size_t element, float value) {
    run_.tensors()[tensor].local.data<float>()[element] = value;
  };
  const fs::path a = saved(1);
  run_.load(a);
  set(0, 3, 3.0F);           // was 4
  set(0, 4, 10.0F);          // was 5
  set(1, 0, std::nanf(""));  // was 1001
  const ProcessGrid& grid = run_.grid();
  std::string config = test::CheckpointCase::kConfig;
  config.replace(config.find("test"), 4, "other");
  const TrainingProgress progress{2, 200, 8, 2, 42, config};
  const fs::path b = save_checkpoint(grid, run_.run_dir(), progress, run_.tensors(), 10).path;

  const CheckpointComparison comparison = compare_checkpoints(a, b);
  EXPECT_EQ(comparison.step_a, 1);
  EXPECT_EQ(comparison.step_b, 2);
  EXPECT_EQ(comparison.identical, 3);
  EXPECT_FALSE(comparison.same_tensors());
  ASSERT_EQ(comparison.different.size(), 2U);
  EXPECT_EQ(comparison.different[0].name, "embedding");
  EXPECT_EQ(comparison.different[0].elements, 65);
  EXPECT_EQ(comparison.different[0].different, 2);
  EXPECT_EQ(comparison.different[0].max_absolute, 5.0);
  EXPECT_EQ(comparison.different[0].max_relative, 0.5);
  EXPECT_TRUE(std::isnan(comparison.different[1].max_absolute));
  ASSERT_EQ(comparison.configuration.size(), 1U);
  EXPECT_EQ(comparison.configuration[0].key, "run.name");

  const fs::path fewer =
      save_checkpoint(grid, run_.run_dir(), {3, 300, 12, 3, 42, ""}, std::span(run_.tensors()).first(4), 10)
          .path;
  EXPECT_THAT(compare_checkpoints(a, fewer).incomparable,
              ElementsAre(AllOf(HasSubstr("adamw.m/layers.0.moe.experts.down"), HasSubstr("only in"))));
}

TEST_F(CheckpointToolsTest, CommandsAndTheirExitCodes) {
  const std::string run = run_.run_dir().string();
  const fs::path a = saved(1);
  const fs::path b = saved(2);
  EXPECT_EQ(command("verify " + run), 0);
  EXPECT_THAT(output_, AllOf(HasSubstr("good     " + b.string()), HasSubstr(a.string())));
  EXPECT_EQ(command("diff " + run + " " + b.string()), 0);
  EXPECT_THAT(output_, HasSubstr("5 tensors are identical, 0 differ"));
  EXPECT_EQ(command("diff " + a.string() + " " + b.string()), 1);
  EXPECT_EQ(command("reshard " + run + " " + run + "/more --ranks 4"), 0);
  EXPECT_THAT(output_, HasSubstr("4 ranks with expert_parallel_size 4"));
  EXPECT_EQ(command("consolidate " + run + " " + run + "/one.safetensors"), 0);
  EXPECT_THAT([&] { command("consolidate " + run + " " + run + "/one.safetensors"); },
              ThrowsMessage<Error>(HasSubstr("--force")));
  EXPECT_EQ(command("consolidate --force " + run + " " + run + "/one.safetensors"), 0);

  fs::resize_file(b / "rank_00000.safetensors", 100);
  EXPECT_EQ(command("verify " + run), 1);
  EXPECT_THAT(output_, HasSubstr("DAMAGED  " + b.string()));
  EXPECT_EQ(command("prune --keep 1 --dry-run " + run), 0);
  EXPECT_THAT(output_, AllOf(HasSubstr("kept though damaged"), HasSubstr("fault: " + b.string())));
  EXPECT_EQ(command("prune --keep 1 " + run), 0);
  EXPECT_TRUE(fs::exists(a));
  fs::remove(a / "rank_00000.safetensors");
  EXPECT_EQ(command("prune --keep 1 " + run), 1);
  EXPECT_THAT(output_, HasSubstr("none is removed"));
  EXPECT_TRUE(fs::exists(a) && fs::exists(b));
}

// The copy beside training is made once: a second save needs no more memory, and the tensors may change
// meanwhile.
TEST_F(CheckpointToolsTest, SavingBesideTraining) {
  CheckpointSaver saver(run_.grid(), run_.run_dir(), 2, CheckpointSaver::Mode::kBackground);
  EXPECT_FALSE(saver.in_flight());
  EXPECT_FALSE(saver.poll().has_value());
  EXPECT_FALSE(saver.finish().has_value());
  for (const std::int64_t step : {1, 2, 3}) {
    run_.set_values(static_cast<float>(step));
    saver.begin({step, 0, 0, 0, 1, ""}, run_.tensors());
    run_.set_values(-5);
    EXPECT_TRUE(saver.in_flight());
    EXPECT_THROW(saver.begin({9, 0, 0, 0, 1, ""}, run_.tensors()), Error);
    std::optional<SaveResult> result;
    while (!(result = saver.poll())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(result->saved) << result->message;
    EXPECT_FALSE(saver.in_flight());
    EXPECT_EQ(run_.load(result->path).step, step);
    EXPECT_TRUE(run_.holds(static_cast<float>(step)));
  }
  EXPECT_EQ(find_checkpoints(run_.run_dir()).size(), 2U);
}

TEST_F(CheckpointToolsTest, ASaveThatNobodyFinishesHasNoName) {
  saved(1);
  {
    CheckpointSaver saver(run_.grid(), run_.run_dir(), 2, CheckpointSaver::Mode::kBackground);
    saver.begin({2, 0, 0, 0, 1, ""}, run_.tensors());
  }
  EXPECT_EQ(run_.resume().progress->step, 1);
  EXPECT_TRUE(run_.save(2, 2).saved);
  EXPECT_THAT(run_.strangers(), IsEmpty());
}

TEST_F(CheckpointToolsTest, AFailedSaveBesideTrainingIsAResult) {
  std::ofstream(run_.checkpoints()) << "a file";
  EXPECT_FALSE(run_.save(1, 1, 2, CheckpointSaver::Mode::kBackground).saved);
  fs::remove(run_.checkpoints());
  EXPECT_TRUE(run_.save(2, 2, 2, CheckpointSaver::Mode::kBackground).saved);
}

}  // namespace
}  // namespace conclave
