#include "trainer/commands/config_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "tests/support/config_files.h"

namespace conclave {
namespace {

using testing::HasSubstr;

struct Outcome {
  int exit_code;
  std::string output;
};

// Runs `conclave config <words...>` and catches what it prints.
Outcome run(std::vector<std::string> words) {
  CLI::App app{"conclave"};
  app.require_subcommand(1);
  std::function<int()> selected;
  add_config_command(app, selected);
  words.insert(words.begin(), "config");
  std::reverse(words.begin(), words.end());  // as CLI::App::parse wants its vector
  app.parse(words);
  testing::internal::CaptureStdout();
  int exit_code = -1;
  try {
    exit_code = selected();
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  std::fflush(stdout);
  return {exit_code, testing::internal::GetCapturedStdout()};
}

class ConfigCommandTest : public testing::Test {
 protected:
  test::ConfigFiles files_;
  std::string a_ = files_.write("a.yaml", "data: {train: [{name: text, path: text.txt}]}\n");
  std::string b_ = files_.write("b.yaml", "base: a.yaml\nlog: {every: 1}\noptim: {lr: 1e-4}\n");
};

TEST_F(ConfigCommandTest, ShowPrintsTheResolvedFileWithOverrides) {
  const Outcome outcome = run({"show", a_, "moe.experts=4", "moe.top_k=1"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.output, HasSubstr("moe:\n  experts: 4\n  top_k: 1\n"));
  EXPECT_THAT(outcome.output, HasSubstr("  head_dim: 64\n"));
  EXPECT_THAT(outcome.output, testing::EndsWith("\n# exports as mixtral\n"));
}

TEST_F(ConfigCommandTest, ShowThrowsTheFaultsOfAFile) {
  EXPECT_THROW(run({"show", a_, "moe.topk=4"}), ConfigError);
  EXPECT_THROW(run({"show", files_.directory() + "/missing.yaml"}), ConfigError);
}

TEST_F(ConfigCommandTest, DiffIsOneWhereFilesDiffer) {
  const Outcome different = run({"diff", a_, b_});
  EXPECT_EQ(different.exit_code, 1);
  EXPECT_THAT(different.output, HasSubstr("optim.lr: 0.001 -> 1e-4\n"));
  EXPECT_THAT(different.output, HasSubstr("log.every: 10 -> 1  (does not change results)\n"));
  EXPECT_EQ(run({"diff", a_, a_}).exit_code, 0);
}

TEST_F(ConfigCommandTest, ExplainAndSchemaNeedNoFile) {
  EXPECT_THAT(run({"explain", "moe.top_k"}).output, HasSubstr("an integer from 1 to 64"));
  EXPECT_THAT(run({"explain"}).output, HasSubstr("moe"));
  EXPECT_THAT(run({"schema"}).output, HasSubstr("draft-07"));
}

TEST_F(ConfigCommandTest, AFileIsRequired) {
  EXPECT_THROW(run({"show"}), CLI::RequiredError);
  EXPECT_THROW(run({}), CLI::RequiredError);
}

}  // namespace
}  // namespace conclave
