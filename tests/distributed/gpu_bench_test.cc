// ranks: 1 2
// `conclave bench` on GPUs: sound numbers from the operators that run there. How fast anything is is not
// tested.
#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "tests/support/gpus_of_ranks.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/bench/bench.h"
#include "trainer/compute_device.h"

namespace conclave::bench {
namespace {

class GpuBenchTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = test::missing_gpus(); !why.empty()) GTEST_SKIP() << why;
    experiment_.mutable_run()->set_device(config::Run::cuda);
    experiment_.mutable_moe()->set_balance_scope(config::Moe::sequence);
    device_.emplace(experiment_, test::world());
  }
  Job job(Communicator& ranks) {
    return {.world = ranks,
            .experiment = experiment_,
            .peak = {.fp32 = 100, .bf16 = 200, .fp32_instructions = "made up", .bf16_instructions = ""},
            .timing = {.seconds = 1e-3, .least_repetitions = 3, .most_repetitions = 3, .warm_up = 1},
            .gpu = device_->gpu.get()};
  }

  test::EmulatedGpus gpus_{2};
  config::Experiment experiment_ = test::tiny_experiment("no file");
  std::optional<ComputeDevice> device_;
};

TEST_F(GpuBenchTest, OperatorsAreMeasuredThere) {
  const auto measure = [&](config::Precision::Compute compute, const auto& benchmarks, double peak) {
    experiment_.mutable_precision()->set_compute(compute);
    for (const auto benchmark : benchmarks) {
      const std::vector<Row> rows = benchmark(job(device_->world));
      EXPECT_GT(rows.size(), 1U);
      for (const Row& row : rows) {
        SCOPED_TRACE(row.dump());
        EXPECT_GT(row["gflops"], 0);
        EXPECT_DOUBLE_EQ(row["peak_share"], row["gflops"].get<double>() / peak);
      }
    }
  };
  measure(config::Precision::fp32, std::array{bench_gemm, bench_layer}, 100);
  measure(config::Precision::bf16, std::array{bench_gemm, bench_layer, bench_attention}, 200);
  EXPECT_TRUE(device_->gpu->calls_on_host().empty());
}

TEST_F(GpuBenchTest, ExpertsAreMeasuredThere) {
  experiment_.mutable_model()->set_d_model(4);  // thousands of rows an expert
  experiment_.mutable_moe()->set_d_ff(4);
  const std::vector<Row> rows = bench_grouped_gemm(job(device_->world));
  EXPECT_EQ(rows.size(), 6U * 6U);
  for (const Row& row : rows) EXPECT_GT(row["gflops"], 0) << row.dump();
}

// What the host's spans would say of a GPU's time is left out.
TEST_F(GpuBenchTest, StepsAreTimedAsAWhole) {
  const StepOptions options{.warm_up_steps = 1, .steps = 2, .name = "own", .against = {}};
  const std::vector<Row> rows = bench_step(job(test::world()), options);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_GT(rows[0]["tokens_per_s"], 0);
  EXPECT_GT(rows[0]["peak_share"], 0);
  EXPECT_FALSE(rows[0].contains("optimizer_ms"));
  EXPECT_FALSE(rows[0].contains("gemm_share"));
}

TEST_F(GpuBenchTest, ThePeakIsANamedProduct) {
  const MachinePeak peak = measure_gpu_peak(device_->world, *device_->gpu, 24);
  EXPECT_GT(peak.fp32, 0);
  EXPECT_GT(peak.bf16, 0);
  EXPECT_EQ(peak.bf16_instructions, "cuBLAS, 24 x 24 x 24");
}

}  // namespace
}  // namespace conclave::bench
