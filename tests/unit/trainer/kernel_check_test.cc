#include "trainer/doctor/kernel_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "comm/cuda/runtime.h"
#include "layers/ops/add/add.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class KernelCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::gpus().empty()) GTEST_SKIP() << "no GPU here";
    gpu_ = std::make_unique<cuda::Engine>(0);
  }
  // a + b, to whose first element `change` is applied on the GPU.
  KernelAgreement check_sum(const std::function<float(float)>& change) {
    const KernelCase sum{.name = "sum",
                         .operands = {{3, 7}, {3, 7}},
                         .run = [&](Context& ctx, std::span<const TensorView> in) {
                           const TensorView c = ctx.arena->allocate({3, 7});
                           add(ctx, {.a = in[0], .b = in[1], .sum = c});
                           ctx.synchronize();
                           float& first = c.data<float>()[0];
                           if (ctx.on_gpu()) first = change(first);
                           return std::vector<KernelCase::Result>{{"c", c}};
                         }};
    return check_kernels(*gpu_, {sum}).at(0);
  }

  test::EmulatedGpus gpus_{1};
  std::unique_ptr<cuda::Engine> gpu_;
};

TEST_F(KernelCheckTest, EveryOperatorAgrees) {
  const std::vector<KernelCase> cases = kernel_cases();
  const std::vector<KernelAgreement> agreements = check_kernels(*gpu_, cases);
  ASSERT_EQ(agreements.size(), cases.size());
  for (const KernelAgreement& agreement : agreements)
    EXPECT_TRUE(agreement.agrees()) << describe(std::span(&agreement, 1));
  EXPECT_THAT(describe(agreements),
              AllOf(HasSubstr("agree with the CPU in 21 cases"), Not(HasSubstr("DIFFERS"))));
  EXPECT_TRUE(gpu_->calls_on_host().empty()) << "a case that checks no kernel";
}

TEST_F(KernelCheckTest, RoundingsAreForgivenAndErrorsAreNot) {
  EXPECT_EQ(check_sum([](float x) { return x; }).share(), 0);
  EXPECT_TRUE(check_sum([](float x) { return std::nextafter(x, 9.0F); }).agrees());
  EXPECT_FALSE(check_sum([](float x) { return x + 1e-4F; }).agrees());
  EXPECT_FALSE(check_sum([](float) { return std::numeric_limits<float>::quiet_NaN(); }).agrees());
}

TEST_F(KernelCheckTest, WhatDiffersIsNamed) {
  const std::vector<KernelAgreement> agreements{check_sum([](float x) { return x; }),
                                                check_sum([](float x) { return x + 0.25F; })};
  EXPECT_THAT(describe(agreements),
              AllOf(HasSubstr("c of sum DIFFERS from the CPU by 2.5e-01; rounding explains "),
                    Not(HasSubstr("agree with"))));
}

}  // namespace
}  // namespace conclave
