#include "trainer/compute_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "comm/self/self_communicator.h"
#include "tests/support/test_gpu.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/start_report.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

class ComputeDeviceTest : public testing::Test {
 protected:
  // By index; nothing: the CPU.
  std::optional<int> gpu(config::Run::Device device) {
    experiment_.mutable_run()->set_device(device);
    const std::optional<Placement> placement = place_for(experiment_, *alone_);
    return placement ? std::optional(placement->gpu) : std::nullopt;
  }
  static bool has_no_gpu() { return cuda::gpus().empty(); }

  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
};

TEST_F(ComputeDeviceTest, WithoutAGpuAutoIsTheCpuAndCudaAnErrorThatSaysHow) {
  if (!has_no_gpu()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(gpu(config::Run::auto_), std::nullopt);
  EXPECT_EQ(gpu(config::Run::cpu), std::nullopt);
  EXPECT_THAT(
      [&] { gpu(config::Run::cuda); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("run.device: cuda, but 1 of 1 ranks have no GPU"),
                                       HasSubstr("nvidia-smi"), HasSubstr("run.device: cpu runs here"))));
  EXPECT_THAT(describe_device(nullptr), AllOf(HasSubstr("CPU"), HasSubstr("there is no GPU here")));
}

TEST_F(ComputeDeviceTest, WithAGpuAutoTakesIt) {
  const test::EmulatedGpus gpus(1);
  if (has_no_gpu()) GTEST_SKIP() << "no GPU here";
  EXPECT_EQ(gpu(config::Run::auto_), 0);
  EXPECT_EQ(gpu(config::Run::cpu), std::nullopt);
  EXPECT_EQ(gpu(config::Run::cuda), 0);
  const cuda::Engine engine(0);
  EXPECT_THAT(describe_device(&engine), AllOf(HasSubstr("GPU 0, "), HasSubstr("CUDA ")));
}

TEST_F(ComputeDeviceTest, LocalExpertsTakeItToo) {
  const test::EmulatedGpus gpus(1);
  if (has_no_gpu()) GTEST_SKIP() << "no GPU here";
  test::apply(experiment_, "local_experts");
  EXPECT_EQ(gpu(config::Run::auto_), 0);
  EXPECT_EQ(gpu(config::Run::cuda), 0);
}

TEST_F(ComputeDeviceTest, WhatRunsOnTheHostIsSaid) {
  const test::EmulatedGpus gpus(1);
  if (has_no_gpu()) GTEST_SKIP() << "no GPU here";
  test::apply(experiment_, "supervised");
  Trainer trainer(experiment_, *alone_);
  EXPECT_THAT(start_report(trainer), HasSubstr("device     GPU 0, "));
  EXPECT_THAT(describe_calls_on_host(*trainer.gpu), IsEmpty());
  train_step(trainer, 0);
  // 2 layers, 2 micro-batches, forward and backward.
  EXPECT_THAT(describe_calls_on_host(*trainer.gpu), HasSubstr("router 8 times"));
}

}  // namespace
}  // namespace conclave
