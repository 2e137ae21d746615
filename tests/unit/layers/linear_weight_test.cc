#include "layers/linear/linear_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "tests/support/operator_test.h"

namespace conclave::test {
namespace {

constexpr std::int64_t kRows = 9;
constexpr std::int64_t kInputs = 33;
constexpr std::int64_t kOutputs = 45;
// Both factors of each of kInputs (or kOutputs) products are rounded, by 2^-8 at most; values are within 5.
constexpr float kBound = 45 * 5 * 5 * 0x1p-7F;

struct Products {
  std::vector<float> y, dx;
};

Products products(LinearWeight& weight, DType compute) {
  LocalContext ctx;
  ctx.compute = compute;
  std::vector<float> x = random_values(kRows * kInputs, "x");
  std::vector<float> dy = random_values(kRows * kOutputs, "dy");
  Products result{std::vector<float>(dy.size(), NAN), std::vector<float>(x.size(), NAN)};
  weight.forward(ctx, view(x, {kRows, kInputs}), view(result.y, {kRows, kOutputs}));
  weight.input_gradient(ctx, view(dy, {kRows, kOutputs}), view(result.dx, {kRows, kInputs}));
  return result;
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected) {
  for (std::size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], kBound) << i;
}

// Copies in bf16 follow the parameter: a stale one would be off by far more than rounding.
TEST(LinearWeight, PackedCopiesFollowTheParameter) {
  if (!has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  Parameter parameter("w", {kOutputs, kInputs});
  parameter.initialise_normal(1, 1.0);
  LinearWeight weight(parameter);
  for (const float factor : {1.0F, -20.0F}) {
    for (float& value : parameter.mutable_value().values<float>()) value *= factor / 4;
    const Products bf16 = products(weight, DType::kBFloat16);
    const Products fp32 = products(weight, DType::kFloat32);
    expect_near(bf16.y, fp32.y);
    expect_near(bf16.dx, fp32.dx);
  }
}

// Rows that follow an update have the bits of copies that are made anew, and nothing is packed twice.
TEST(LinearWeight, CopiesFollowAnUpdateRowByRow) {
  if (!has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  constexpr std::int64_t kExperts = 3;
  Parameter parameter("w", {kExperts, kOutputs, kInputs}, {0, kExperts});
  parameter.initialise_normal(1, 1.0);
  LinearWeight weight(parameter);
  LocalContext ctx;
  ctx.compute = DType::kBFloat16;
  ASSERT_EQ(parameter.followers().size(), 1U);
  ValueFollower& follower = *parameter.followers().front();
  EXPECT_FALSE(follower.begin_update()) << "nothing is packed yet";

  weight.packed_for_forward(ctx);
  weight.packed_for_input_gradient(ctx);
  ASSERT_TRUE(follower.begin_update());
  const TensorView value = parameter.mutable_value();
  for (std::int64_t expert = 0; expert < kExperts; expert += 2) {  // the second keeps its value
    for (std::int64_t first = 0; first < kOutputs; first += ValueFollower::kRowsAtOnce) {
      const std::int64_t begin = expert * kOutputs + first;
      const std::int64_t end = expert * kOutputs + std::min(first + ValueFollower::kRowsAtOnce, kOutputs);
      for (float& element :
           value.values<float>().subspan(static_cast<std::size_t>(begin * kInputs),
                                         static_cast<std::size_t>((end - begin) * kInputs))) {
        element *= -3.0F;
      }
      follower.follow({begin, end});
    }
  }
  follower.end_update();

  Parameter same("same", {kExperts, kOutputs, kInputs}, {0, kExperts});
  std::ranges::copy(parameter.value().values<float>(), same.mutable_value().values<float>().begin());
  LinearWeight anew(same);
  const auto bits = [](ConstTensorView packed) {
    std::vector<std::uint16_t> words;
    for (const bfloat16 element : packed.values<bfloat16>()) words.push_back(element.bits);
    return words;
  };
  EXPECT_EQ(bits(weight.packed_for_forward(ctx)), bits(anew.packed_for_forward(ctx)));
  EXPECT_EQ(bits(weight.packed_for_input_gradient(ctx)), bits(anew.packed_for_input_gradient(ctx)));

  // Without a word to the follower the copies are stale, and made anew.
  parameter.mutable_value().values<float>()[0] = 100.0F;
  EXPECT_FALSE(follower.begin_update());
  EXPECT_NE(bits(weight.packed_for_forward(ctx)), bits(anew.packed_for_forward(ctx)));
}

TEST(LinearWeight, RowsOfAParameterAreItsOwnMatrix) {
  Parameter parameter("w", {2 * kOutputs, kInputs});
  parameter.initialise_normal(1, 1.0);
  LinearWeight second(parameter, {kOutputs, 2 * kOutputs});
  EXPECT_EQ(second.outputs(), kOutputs);
  Parameter alone("alone", {kOutputs, kInputs});
  std::ranges::copy(parameter.value().rows(kOutputs, 2 * kOutputs).values<float>(),
                    alone.mutable_value().values<float>().begin());
  LinearWeight whole(alone);
  for (const DType compute : {DType::kFloat32, DType::kBFloat16}) {
    if (compute == DType::kBFloat16 && !has_bf16_products()) continue;
    EXPECT_EQ(products(second, compute).y, products(whole, compute).y);
    EXPECT_EQ(products(second, compute).dx, products(whole, compute).dx);
  }
}

}  // namespace
}  // namespace conclave::test
