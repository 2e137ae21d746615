// ranks: 1 2
// Whole models trained on GPUs and on the CPU, side by side: losses, gradient norms, all gradients and the
// state of the routers.
//
// The bound is, as in layout_test, the error of the arithmetic itself: one fp32 rounding of every weight,
// amplified by the training dynamics, as a second run on the CPU measures it.
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>

#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "tests/support/deviation.h"
#include "tests/support/gpus_of_ranks.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/compute_device.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

using test::Deviation;
using test::deviation;

constexpr std::int64_t kSteps = 2;
constexpr double kRoundings = 16;  // of a step's own sums, against the one of each weight
constexpr double kUnit = std::numeric_limits<float>::epsilon();

config::Experiment experiment_of(const std::string& variant) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_moe()->set_capacity_factor(0);
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);
  experiment.mutable_moe()->set_z_loss(1e-3);
  experiment.mutable_train()->set_steps(kSteps);
  experiment.mutable_train()->set_global_batch(6);
  experiment.mutable_train()->set_micro_batch(2);
  test::apply(experiment, variant);
  if (variant == "recompute") experiment.mutable_train()->set_recompute(config::Train::block);
  if (variant == "sharded_state") experiment.mutable_optim()->set_zero(1);
  if (variant == "overlap") experiment.mutable_parallel()->set_overlap_reduction(true);
  if (variant == "chunks") experiment.mutable_parallel()->set_exchange_chunks(2);
  if (variant == "drops") {  // half of the choices, and what is left is weighed anew
    experiment.mutable_moe()->set_capacity_factor(0.5);
    experiment.mutable_moe()->set_drop(config::Moe::probability);
    experiment.mutable_moe()->set_renormalize_after_drop(true);
  }
  if (variant == "drops_by_batch") {
    experiment.mutable_moe()->set_capacity_factor(0.5);
    experiment.mutable_moe()->set_drop(config::Moe::batch_prioritized);
    experiment.mutable_moe()->set_balance_scope(config::Moe::global_batch);
  }
  if (variant == "recompute_drops") {
    experiment.mutable_moe()->set_capacity_factor(0.5);
    experiment.mutable_moe()->set_balance_scope(config::Moe::global_batch);
    experiment.mutable_train()->set_recompute(config::Train::block);
  }
  if (variant == "jitter") experiment.mutable_moe()->set_jitter(0.1);
  if (variant == "cross_layout") experiment.mutable_run()->set_determinism(config::Run::cross_layout);
  return experiment;
}

config::Experiment on(config::Run::Device device, config::Experiment experiment) {
  experiment.mutable_run()->set_device(device);
  return experiment;
}

class GpuTrainingTest : public testing::TestWithParam<const char*> {
 protected:
  GpuTrainingTest() {
    // Alone there are no messages under way, and all that touches memory too early is caught.
    if (test::world().size() == 1)
      guards_ = std::make_unique<test::Environment>("CONCLAVE_EMULATION_GUARDS", "1");
  }
  void SetUp() override {
    if (const std::string why = test::missing_gpus(); !why.empty()) GTEST_SKIP() << why;
  }

  test::EmulatedGpus gpus_{2};
  std::unique_ptr<test::Environment> guards_;
};

TEST_P(GpuTrainingTest, TrainsAsOnTheCpu) {
  const config::Experiment experiment = experiment_of(GetParam());
  Trainer cpu(on(config::Run::cpu, experiment), test::world());
  Trainer perturbed(on(config::Run::cpu, experiment), test::world());
  test::perturb(perturbed);
  Trainer gpu(on(config::Run::cuda, experiment), test::world());
  ASSERT_EQ(cpu.gpu, nullptr);
  ASSERT_NE(gpu.gpu, nullptr);
  Deviation amplified;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const StepResult expected = train_step(cpu, step);
    amplified.take_larger(deviation(perturbed, train_step(perturbed, step), cpu, expected));
    std::string worst;
    const Deviation actual = deviation(gpu, train_step(gpu, step), cpu, expected, &worst);
    SCOPED_TRACE(testing::Message() << "step " << step << ", worst parameter " << worst);
    EXPECT_LE(actual.loss, kRoundings * (amplified.loss + kUnit));
    EXPECT_LE(actual.norm, kRoundings * (amplified.norm + kUnit));
    EXPECT_LE(actual.gradient, kRoundings * (amplified.gradient + kUnit));
    EXPECT_EQ(test::router_state(gpu), test::router_state(cpu));
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, GpuTrainingTest,
                         testing::Values("", "untied", "shared", "switch", "sigmoid", "groups", "masked",
                                         "hash", "gshard", "noisy_top_k", "dense_mixture", "hierarchical",
                                         "expert_choice", "pad_to_capacity", "gateless", "dropout",
                                         "force_balanced", "supervised", "recompute", "sharded_state",
                                         "overlap", "chunks", "drops", "drops_by_batch", "recompute_drops",
                                         "jitter", "cross_layout", "local_experts"),
                         [](const auto& variant) {
                           return std::string(variant.param).empty() ? std::string("base")
                                                                     : std::string(variant.param);
                         });

// In bf16 the order of sums decides roundings of 2^-9, and the two devices may take different ones: each is
// as near to fp32 as the other, but for a factor.
TEST_F(GpuTrainingTest, Bf16IsAsNearToFp32AsOnTheCpu) {
  if (!has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16 to compare with";
  constexpr double kFactor = 2;
  config::Experiment experiment = experiment_of("shared");
  Trainer exact(on(config::Run::cpu, experiment), test::world());
  experiment.mutable_precision()->set_compute(config::Precision::bf16);
  Trainer cpu(on(config::Run::cpu, experiment), test::world());
  Trainer gpu(on(config::Run::cuda, experiment), test::world());
  ASSERT_EQ(gpu.compute, DType::kBFloat16);
  Deviation of_cpu;
  Deviation of_gpu;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const StepResult expected = train_step(exact, step);
    of_cpu.take_larger(deviation(cpu, train_step(cpu, step), exact, expected));
    of_gpu.take_larger(deviation(gpu, train_step(gpu, step), exact, expected));
  }
  EXPECT_LE(of_gpu.loss, kFactor * of_cpu.loss);
  EXPECT_LE(of_gpu.norm, kFactor * of_cpu.norm);
  EXPECT_LE(of_gpu.gradient, kFactor * of_cpu.gradient);
  EXPECT_GT(of_gpu.gradient, kUnit * 100) << "this was no training in bf16";
}

// Alone, a rank waits for the norm of the gradients, with which the losses come, and for nothing else.
// Where tokens travel, it waits for the counts of each layer's rows, and the ranks of one GPU for all that
// goes through the host.
TEST_F(GpuTrainingTest, WaitsForNothingWithinAMicroBatch) {
  if (test::world().size() > 1) GTEST_SKIP() << "of one rank alone";
  const test::Environment races("CONCLAVE_EMULATION_RACES", "0");  // others look for them
  for (const char* variant :
       {"", "switch", "pad_to_capacity", "drops", "jitter", "masked", "recompute", "hash", "gshard",
        "noisy_top_k", "dense_mixture", "expert_choice", "hierarchical"}) {
    Trainer trainer(on(config::Run::cuda, experiment_of(variant)), test::world());
    train_step(trainer, 0);
    const std::int64_t before = trainer.gpu->stream().waits();
    train_step(trainer, 1);
    EXPECT_EQ(trainer.gpu->stream().waits() - before, 1) << variant;
    EXPECT_TRUE(trainer.gpu->calls_on_host().empty()) << describe_calls_on_host(*trainer.gpu);
  }
}

TEST_F(GpuTrainingTest, RepeatsBitByBit) {
  const config::Experiment experiment = on(config::Run::cuda, experiment_of("shared"));
  Trainer first(experiment, test::world());
  Trainer second(experiment, test::world());
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const double loss = train_step(first, step).loss;
    first.synchronize();  // the emulation doesn't know that its work isn't the second one's
    EXPECT_EQ(train_step(second, step).loss, loss);
    EXPECT_EQ(test::all_of(first, &Parameter::gradient), test::all_of(second, &Parameter::gradient));
    EXPECT_EQ(test::all_of(first, &Parameter::value), test::all_of(second, &Parameter::value));
  }
}

}  // namespace
}  // namespace conclave
