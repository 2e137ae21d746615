#include "trainer/metrics/metrics_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/base/error.h"
#include "tests/support/temporary_directory.h"
#include "trainer/metrics/process_memory.h"
#include "trainer/metrics/run_log.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

StepRecord step_record(std::int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 0.1 * static_cast<double>(step);
  return record;
}

EvaluationRecord evaluation(std::int64_t step) {
  EvaluationRecord record;
  record.step = step;
  record.eval_loss = 1.5;
  record.bits_per_byte = 2.25;
  record.by_source = {{"kjv", 1.25, 1.75}, {"c++", 0.5, 0.75}};
  return record;
}

class MetricsWriterTest : public testing::Test {
 protected:
  const std::filesystem::path& run_dir() const { return directory_.path(); }
  std::filesystem::path file() const { return run_dir() / "metrics.jsonl"; }

  std::vector<nlohmann::json> records() const {
    std::vector<nlohmann::json> result;
    std::ifstream stream(file());
    for (std::string line; std::getline(stream, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> result;
    for (const auto& record : records()) result.push_back(record["step"].get<std::int64_t>());
    return result;
  }

 private:
  test::TemporaryDirectory directory_;
};

TEST_F(MetricsWriterTest, StepRecordHasEveryField) {
  StepRecord record = step_record(10);
  record.loss = 1.0 / 3;
  record.grad_norm = std::numeric_limits<double>::infinity();
  record.load_imbalance_by_layer = {1.5, 2};
  record.expert_load = {{1, 2}, {3, 4}};
  const auto json = nlohmann::json::parse(to_json(record));
  EXPECT_EQ(json["type"], "step");
  EXPECT_EQ(json["loss"].get<double>(), 1.0 / 3);  // to the last bit
  EXPECT_TRUE(json["grad_norm"].is_null());
  EXPECT_EQ(json["expert_load"], (nlohmann::json{{1, 2}, {3, 4}}));
  for (const char* name : {"step",
                           "tokens",
                           "loss",
                           "balance_loss",
                           "z_loss",
                           "supervision_loss",
                           "lr",
                           "grad_norm",
                           "step_ms",
                           "tokens_per_second",
                           "load_imbalance",
                           "dropped_fraction",
                           "exchange_fraction",
                           "dead_experts",
                           "load_entropy",
                           "router_entropy",
                           "rank_imbalance",
                           "load_imbalance_by_layer",
                           "dropped_by_layer",
                           "dropped_by_choice",
                           "balance_loss_raw"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  EXPECT_FALSE(json.contains("load_loss"));
  record.load_loss = 0.5;
  EXPECT_EQ(nlohmann::json::parse(to_json(record))["load_loss"], 0.5);
}

TEST_F(MetricsWriterTest, EvaluationRecordBySource) {
  auto json = nlohmann::json::parse(to_json(evaluation(200)));
  EXPECT_EQ(json["type"], "evaluation");
  EXPECT_EQ(json["step"], 200);
  EXPECT_EQ(json["eval_loss"], 1.5);
  EXPECT_EQ(json["bits_per_byte"], 2.25);
  EXPECT_EQ(json["eval_loss_by_source"], (nlohmann::json{{"kjv", 1.25}, {"c++", 0.5}}));
  EXPECT_EQ(json["bits_per_byte_by_source"], (nlohmann::json{{"kjv", 1.75}, {"c++", 0.75}}));

  EXPECT_FALSE(json.contains("router_accuracy"));
  EXPECT_FALSE(json.contains("force_balanced"));
  EvaluationRecord taught = evaluation(200);
  taught.router_accuracy = 0.5;
  taught.by_source[0].router_accuracy = 0.75;
  taught.force_balanced = true;
  json = nlohmann::json::parse(to_json(taught));
  EXPECT_EQ(json["router_accuracy"], 0.5);
  EXPECT_EQ(json["router_accuracy_by_source"], (nlohmann::json{{"kjv", 0.75}}));
  EXPECT_EQ(json["force_balanced"], true);

  EvaluationRecord tokens = evaluation(200);
  tokens.masked = true;
  EXPECT_TRUE(nlohmann::json::parse(to_json(tokens)).contains("bits_per_masked_byte_by_source"));
  tokens.tokens_are_bytes = false;
  json = nlohmann::json::parse(to_json(tokens));
  EXPECT_FALSE(json.contains("bits_per_byte"));
  EXPECT_FALSE(json.contains("bits_per_byte_by_source"));
}

TEST_F(MetricsWriterTest, EachRecordIsInTheFileAtOnce) {
  MetricsWriter writer(run_dir(), 0);
  writer.write(step_record(1));
  EXPECT_THAT(steps(), ElementsAre(1));
  writer.write(evaluation(1));
  EXPECT_THAT(steps(), ElementsAre(1, 1));
}

TEST_F(MetricsWriterTest, ResumingCutsBack) {
  {
    MetricsWriter writer(run_dir(), 0);
    for (const std::int64_t step : {10, 20, 30}) {
      writer.write(step_record(step));
      writer.write(evaluation(step));
    }
  }
  std::ofstream(file(), std::ios::app) << R"({"type": "step", "step": 5)";  // cut off, whatever its step
  MetricsWriter writer(run_dir(), 20);
  EXPECT_EQ(writer.removed_lines(), 3);
  EXPECT_THAT(steps(), ElementsAre(10, 10, 20, 20));
  writer.write(step_record(30));
  EXPECT_THAT(steps(), ElementsAre(10, 10, 20, 20, 30));
  EXPECT_FALSE(std::filesystem::exists(file().string() + ".tmp"));
}

// A line without its newline may have lost digits: "step": 2 of 20 looks like a record.
TEST_F(MetricsWriterTest, ALineWithoutNewlineIsNoRecord) {
  std::ofstream(file()) << "{\"step\": 1}\n{\"step\": 2}";
  MetricsWriter writer(run_dir(), 100);
  EXPECT_EQ(writer.removed_lines(), 1);
  EXPECT_THAT(steps(), ElementsAre(1));
}

TEST_F(MetricsWriterTest, StartingAnewRemovesAll) {
  { MetricsWriter(run_dir(), 0).write(step_record(10)); }
  const MetricsWriter writer(run_dir(), 0);
  EXPECT_EQ(writer.removed_lines(), 1);
  EXPECT_TRUE(records().empty());
}

TEST_F(MetricsWriterTest, UnwritableFileIsAnError) {
  EXPECT_THROW(MetricsWriter(run_dir() / "missing", 0), Error);
}

TEST(ProcessMemory, CountsWhatIsTouched) { EXPECT_GT(resident_memory_bytes(), 1 << 20); }

TEST(RunLogTest, FileHasAllAndConsoleHasWhatPeopleNeed) {
  const test::TemporaryDirectory directory;
  std::ostringstream out;
  {
    Console console(out, {}, 10, 0, true);
    RunLog log(directory.path(), 3, &console);
    log.debug("a detail");
    log.info("braces {} stay");
    log.warning("careful");
    log.error("broken");
  }
  EXPECT_EQ(out.str(), "braces {} stay\nwarning: careful\n");
  std::ifstream stream(directory.path() / "logs" / "rank_3.log");
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  EXPECT_THAT(lines,
              ElementsAre(HasSubstr("debug [rank 3] a detail"), HasSubstr("info [rank 3] braces {} stay"),
                          HasSubstr("warning [rank 3] careful"), HasSubstr("error [rank 3] broken")));

  const RunLog silent(directory.path(), 4, nullptr);
  EXPECT_TRUE(std::filesystem::exists(directory.path() / "logs" / "rank_4.log"));
  EXPECT_THROW(RunLog(directory.path() / "logs" / "rank_3.log", 0, nullptr), Error);
}

TEST(RunLogTest, AMarkerStandsInEveryLine) {
  const test::TemporaryDirectory directory;
  std::ostringstream out;
  {
    Console console(out, {}, 10, 0, true, "future leak");
    RunLog log(directory.path(), 0, &console, "future leak");
    log.info("one\ntwo\n");
    log.warning("careful");
    console.write(step_record(5));
    console.write(evaluation(5));
  }
  std::istringstream console_lines(out.str());
  int count = 0;
  for (std::string line; std::getline(console_lines, line); ++count)
    EXPECT_EQ(line.substr(0, 14), "[future leak] ") << line;
  EXPECT_EQ(count, 6);  // the first message ends with an empty line
  std::ifstream stream(directory.path() / "logs" / "rank_0.log");
  std::string first;
  std::getline(stream, first);
  EXPECT_THAT(first, HasSubstr("[rank 0, future leak] one"));
}

}  // namespace
}  // namespace conclave
