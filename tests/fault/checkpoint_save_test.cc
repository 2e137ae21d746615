// A save whose file calls fail, or whose process is killed, at each of its calls in turn.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/fault/file_faults.h"
#include "tests/fault/verdict.h"
#include "tests/support/checkpoint_case.h"
#include "trainer/checkpoint/verify_checkpoint.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

// What is there before the save that is disturbed.
struct Scenario {
  const char* name;
  std::vector<std::int64_t> steps;  // saved before, each with its number as the value
  std::int64_t saves;               // the step that is disturbed
  std::int64_t keep;
  CheckpointSaver::Mode mode;
  const char* always = "";  // further faults, which last
};
constexpr auto kBlocking = CheckpointSaver::Mode::kBlocking;
constexpr auto kBackground = CheckpointSaver::Mode::kBackground;
const std::vector<Scenario> kScenarios{
    {"a new step", {10}, 20, 2, kBlocking},
    {"a new step, beside training", {10}, 20, 2, kBackground},
    {"over an existing step", {10, 20}, 20, 2, kBlocking},
    {"over the only one, without atomic swap", {20}, 20, 1, kBlocking, "swap:EINVAL:/checkpoints:1:1000;"},
    {"with older ones to remove", {5, 10}, 20, 1, kBlocking},
};
constexpr float kNew = 99;

void prepare(test::CheckpointCase& run, const Scenario& scenario) {
  for (const std::int64_t step : scenario.steps) {
    ASSERT_TRUE(run.save(step, static_cast<float>(step), 10).saved);
  }
}

// Whatever happened, what resumes is whole and either the newest of before or the new one; the next save
// works and leaves nothing behind.
void expect_sound(test::CheckpointCase& run, const Scenario& scenario, std::optional<bool> saved) {
  const ResumeResult resumed = run.resume();
  EXPECT_THAT(resumed.rejected, IsEmpty());
  ASSERT_TRUE(resumed.progress.has_value());
  const bool is_new = run.holds(kNew);
  if (is_new) {
    EXPECT_EQ(resumed.progress->step, scenario.saves);
  } else {
    EXPECT_EQ(resumed.progress->step, scenario.steps.back());
    EXPECT_TRUE(run.holds(static_cast<float>(scenario.steps.back())));
  }
  if (saved == true) {
    EXPECT_TRUE(is_new);
  }

  const SaveResult next = run.save(30, 30, 2);
  EXPECT_TRUE(next.saved) << next.message;
  EXPECT_EQ(next.message, "");
  EXPECT_THAT(run.strangers(), IsEmpty());
  for (const auto& checkpoint : find_checkpoints(run.run_dir())) {
    EXPECT_THAT(verify_checkpoint(checkpoint).faults, IsEmpty());
  }
}

// Kills the save at its n-th call. False if it has not so many.
bool kill_at(const Scenario& scenario, const std::string& call, const std::string& action, int n) {
  SCOPED_TRACE(fmt::format("{}: {} at {} {}", scenario.name, action, call, n));
  test::CheckpointCase run;
  prepare(run, scenario);
  const pid_t child = fork();
  if (child == 0) {
    test::inject_file_faults(fmt::format("{}{}:{}:/checkpoints:{}", scenario.always, call, action, n));
    run.save(scenario.saves, kNew, scenario.keep, scenario.mode);
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status)) return false;
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  expect_sound(run, scenario, std::nullopt);
  return true;
}

TEST(CheckpointSave, KilledAtEachFileCall) {
  int kills = 0;
  for (const Scenario& scenario : kScenarios) {
    int calls = 0;
    while (!HasFailure() && kill_at(scenario, "any", "kill", calls + 1)) ++calls;
    EXPECT_GT(calls, 12) << scenario.name;
    kills += calls;
    for (int n = 1; !HasFailure() && kill_at(scenario, "write", "torn", n); ++n) ++kills;
  }
  test::verdict("save killed (-9) at each of its file calls",
                fmt::format("{} kills in {} scenarios: the newest committed one resumes, nothing is left",
                            kills, kScenarios.size()));
}

TEST(CheckpointSave, FailsAtEachFileCall) {
  int failures = 0;
  for (const Scenario& scenario : kScenarios) {
    for (const char* error : {"EIO", "ENOSPC"}) {
      for (int n = 1; !HasFailure(); ++n) {
        SCOPED_TRACE(fmt::format("{}: {} at call {}", scenario.name, error, n));
        test::CheckpointCase run;
        prepare(run, scenario);
        test::inject_file_faults(fmt::format("{}any:{}:/checkpoints:{}", scenario.always, error, n));
        const SaveResult result = run.save(scenario.saves, kNew, scenario.keep, scenario.mode);
        const bool took_effect = test::injected_file_faults() > (*scenario.always == 0 ? 0 : 1);
        test::inject_file_faults("");
        if (!took_effect) break;
        ++failures;
        // Who can't remove something has saved all the same, and says so.
        EXPECT_THAT(result.message, HasSubstr("/checkpoints"));
        expect_sound(run, scenario, result.saved);
      }
    }
  }
  test::verdict(
      "EIO, ENOSPC at each file call of a save",
      fmt::format("{} failures: reported with the path, older ones stay, the next save works", failures));
}

TEST(CheckpointSave, InterruptionsAndShortWritesAreNoFailures) {
  for (const char* fault :
       {"open:EINTR", "write:EINTR", "fsync:EINTR", "rename:EINTR", "swap:EINTR", "write:short"}) {
    for (const Scenario& scenario : kScenarios) {
      SCOPED_TRACE(fmt::format("{}: {}", scenario.name, fault));
      test::CheckpointCase run;
      prepare(run, scenario);
      // Every call is interrupted once: the first, the third, ...
      std::string faults = scenario.always;
      for (int n = 1; n < 40; n += 2) faults += fmt::format("{}:/checkpoints:{};", fault, n);
      test::inject_file_faults(faults);
      const SaveResult result = run.save(scenario.saves, kNew, scenario.keep, scenario.mode);
      test::inject_file_faults("");
      EXPECT_TRUE(result.saved) << result.message;
      EXPECT_EQ(result.message, "");
      expect_sound(run, scenario, true);
    }
  }
  test::CheckpointCase run;
  test::inject_file_faults("write:short:/checkpoints:1:1000000");
  EXPECT_TRUE(run.save(1, 1).saved);
  EXPECT_GT(test::injected_file_faults(), 20);
  test::inject_file_faults("");
  EXPECT_THAT(verify_checkpoint(run.checkpoints() / "step_000001").faults, IsEmpty());
  test::verdict("EINTR and short writes in open, write, fsync, rename",
                "the save succeeds, every byte is right");
}

TEST(CheckpointSave, AFullDiskIsNamedWithPathAndBytes) {
  test::CheckpointCase run;
  test::inject_file_faults("write:ENOSPC:.safetensors:2");
  const SaveResult result = run.save(1, 1);
  test::inject_file_faults("");
  EXPECT_FALSE(result.saved);
  EXPECT_THAT(result.message,
              AllOf(HasSubstr("step_000001.tmp/rank_00000.safetensors"), HasSubstr("No space left"),
                    testing::ContainsRegex("after [0-9]+ bytes of it with [0-9]+ to come"),
                    testing::ContainsRegex("[0-9]+ bytes are free")));
  EXPECT_THAT(run.strangers(), IsEmpty());
}

// What power failure asks for: contents before names, and the names of a directory before it gets its own.
TEST(CheckpointSave, EverythingIsOnTheDiskBeforeItHasAName) {
  test::CheckpointCase run;
  ASSERT_TRUE(run.save(1, 1).saved);
  test::trace_file_calls("/checkpoints");
  ASSERT_TRUE(run.save(2, 2).saved);
  test::trace_file_calls("");
  const std::vector<std::string> calls = test::traced_file_calls();

  const std::string unfinished = (run.checkpoints() / "step_000002.tmp").string();
  const auto position = [&](const std::string& call) {
    return std::ranges::find(calls, call) - calls.begin();
  };
  const auto last = [&](const std::string& call) {
    return calls.rend() - std::find(calls.rbegin(), calls.rend(), call) - 1;
  };
  const auto rename =
      position(fmt::format("rename {} {}", unfinished, (run.checkpoints() / "step_000002").string()));
  ASSERT_LT(rename, std::ssize(calls)) << testing::PrintToString(calls);
  for (const char* name : {"/rank_00000.safetensors", "/manifest.pb"}) {
    EXPECT_GE(last("write " + unfinished + name), 0);
    EXPECT_GT(last("fsync " + unfinished + name), last("write " + unfinished + name));
    EXPECT_LT(last("fsync " + unfinished + name), last("fsync " + unfinished));
  }
  EXPECT_LT(last("fsync " + unfinished), rename);
  EXPECT_GT(last("fsync " + run.checkpoints().string()), rename);
  EXPECT_LT(last("fsync " + unfinished + "/rank_00000.safetensors"),
            position("open " + unfinished + "/manifest.pb"));
  test::verdict("power failure: order of write, fsync and rename",
                "files, then manifest, then directory, then the name, then the directory above");
}

}  // namespace
}  // namespace conclave
