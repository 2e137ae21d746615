// ranks: 1 2
// What `conclave bench` reports: rows that are the same on every rank, with sound numbers. How fast anything
// is depends on the machine and is not tested.
#include "trainer/bench/bench.h"

#include <gtest/gtest.h>

#include <limits>

#include "comm/base/error.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"

namespace conclave::bench {
namespace {

using test::world;

Job small_job() {
  config::Experiment experiment = test::tiny_experiment("no file");
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  return {.world = world(),
          .experiment = experiment,
          .peak = {.fp32 = 100, .bf16 = 200, .fp32_instructions = "made up", .bf16_instructions = ""},
          .timing = {.seconds = 1e-3, .least_repetitions = 3, .most_repetitions = 5, .warm_up = 1}};
}

void expect_same_on_all_ranks(const std::vector<Row>& rows) {
  const std::string text = nlohmann::json(rows).dump();
  std::int64_t hash = static_cast<std::int64_t>(std::hash<std::string>()(text) >> 1);
  std::int64_t largest = hash;
  world().all_reduce(buffer_view(std::span(&largest, 1)), ReduceOp::kMax).wait();
  EXPECT_EQ(hash, largest) << text;
}

TEST(BenchTest, OperatorsAreMeasuredAsSharesOfThePeak) {
  const Job job = small_job();
  for (const auto benchmark : {bench_gemm, bench_grouped_gemm, bench_attention, bench_layer}) {
    const std::vector<Row> rows = benchmark(job);
    EXPECT_GT(rows.size(), 1U);
    for (const Row& row : rows) {
      SCOPED_TRACE(row.dump());
      EXPECT_GT(row["gflops"], 0);
      EXPECT_DOUBLE_EQ(row["peak_share"], row["gflops"].get<double>() / 100);
    }
    expect_same_on_all_ranks(rows);
    EXPECT_NE(to_table(rows).find("gflops"), std::string::npos);
  }
}

TEST(BenchTest, GemmCountsTheWorkOfAllRanks) {
  const Row query = bench_gemm(small_job()).front();
  // 2 sequences of 19 tokens, 24 wide: 2 M N K a rank.
  EXPECT_EQ(query["shape"], "M 38 N 32 K 24");
  EXPECT_NEAR(query["gflops"].get<double>() * query["ms"].get<double>() * 1e6,
              2.0 * 38 * 32 * 24 * world().size(), 1e-6);
}

TEST(BenchTest, StepsOfVariantsTakeTurns) {
  const Job job = small_job();
  StepOptions options{.warm_up_steps = 1, .steps = 3, .weak_scaling = true, .name = "own", .against = {}};
  config::Experiment dense = job.experiment;
  dense.mutable_moe()->set_experts(0);
  options.against.push_back({"dense", dense});
  const std::vector<Row> rows = bench_step(job, options);
  ASSERT_EQ(rows.size(), world().rank() == 0 ? 3U : 2U);
  EXPECT_EQ(rows[0]["variant"], "own");
  EXPECT_EQ(rows[0]["tokens"], 4 * 19);
  EXPECT_FALSE(rows[0].contains("ratio"));
  EXPECT_GT(rows[0]["weak_scaling"], 0);
  EXPECT_EQ(rows[1]["variant"], "dense");
  EXPECT_GT(rows[1]["ratio"], 0);
  EXPECT_GT(rows[1]["ratio_without_optimizer"], 0);
  for (const Row& row : rows) {
    EXPECT_GT(row["optimizer_ms"], 0);
    EXPECT_LT(row["optimizer_ms"], row["ms"]);
    double shares = 0;
    for (const char* part :
         {"gemm", "attention", "exchange", "reduction", "waiting", "optimizer", "data", "other"}) {
      shares += row[std::string(part) + "_share"].get<double>();
    }
    EXPECT_NEAR(shares, 1, 1e-9);
  }
}

TEST(BenchTest, ExchangeStandsBesideItsBaselines) {
  const Job job = small_job();
  if (world().size() == 1) {
    EXPECT_THROW(bench_exchange(job), ConfigError);
    return;
  }
  const std::vector<Row> rows = bench_exchange(job);
  expect_same_on_all_ranks(rows);
  for (const Row& row : rows) {
    EXPECT_GT(row["of_alltoallv"], 0);
    EXPECT_GT(row["of_memcpy"], 0);  // the ranks of a test run on one node
  }
}

TEST(BenchTest, MachinePeakOfAllThreads) {
  const MachinePeak peak = measure_machine_peak(world());
  EXPECT_GT(peak.fp32, 0.1);
  EXPECT_FALSE(peak.fp32_instructions.empty());
  EXPECT_EQ(peak.bf16 > 0, !peak.bf16_instructions.empty());
  EXPECT_EQ(peak.of("fp32"), peak.fp32);
  EXPECT_EQ(peak.of("bf16"), peak.bf16);
}

// The loops compute what they claim to: every iteration adds to every lane of every sum.
TEST(BenchTest, PeakLoopsDoTheirWork) {
  const PeakLoop loop = fp32_peak_loop();
  const float one = loop.run(1);
  EXPECT_GT(one, 0);
  EXPECT_NEAR(loop.run(100) / one, 100, 10);
  EXPECT_GE(loop.flops_per_iteration, 2);
}

TEST(BenchTest, MediansAreOfTheSlowestRank) {
  EXPECT_EQ(median_of({3, 1, 2}), 2);
  EXPECT_EQ(median_of({4, 1, 2, 3}), 2.5);
  int repetitions = 0;
  const std::vector<double> laps =
      median_laps(world(), {.seconds = 0, .least_repetitions = 4, .most_repetitions = 9, .warm_up = 2},
                  [&](Stopwatch& watch) {
                    ++repetitions;
                    watch.lap();
                    watch.restart();
                    watch.lap();
                  });
  EXPECT_EQ(repetitions, 6);
  ASSERT_EQ(laps.size(), 2U);
}

}  // namespace
}  // namespace conclave::bench
