#include "comm/ordered_reduction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

TEST(OrderedReduction, AddsFromTheFirstSourceToTheLast) {
  const std::vector<float> a(2000, 1.0F);
  const std::vector<float> b(2000, 0x1p25F);
  const std::vector<float> c(2000, -0x1p25F);
  std::vector<float> result(2000);
  const auto reduce = [&](std::vector<const void*> sources) {
    reduce_in_order(sources, result.data(), 2000, DType::kFloat32, ReduceOp::kSum);
    return result;
  };
  EXPECT_EQ(reduce({a.data(), b.data(), c.data()}), std::vector<float>(2000, 0.0F));
  EXPECT_EQ(reduce({b.data(), c.data(), a.data()}), std::vector<float>(2000, 1.0F));
}

TEST(OrderedReduction, TheResultMayBeOneOfTheSources) {
  // Long enough for several blocks and threads, and odd.
  constexpr std::int64_t kCount = 200'003;
  std::vector<std::int64_t> a(kCount);
  std::vector<std::int64_t> b(kCount);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<std::int64_t>(i);
    b[i] = static_cast<std::int64_t>(3 * i);
  }
  const std::vector<const void*> sources = {a.data(), b.data(), a.data()};
  reduce_in_order(sources, b.data(), kCount, DType::kInt64, ReduceOp::kSum);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < b.size(); ++i) wrong += b[i] != static_cast<std::int64_t>(5 * i);
  EXPECT_EQ(wrong, 0);
}

TEST(OrderedReduction, BFloat16IsRoundedOnce) {
  // 256 + 1 + 1: bfloat16 has 8 significant bits, and rounding after each addition would stay at 256.
  const bfloat16 large(256.0F);
  const bfloat16 one(1.0F);
  bfloat16 result;
  const std::vector<const void*> sources = {&large, &one, &one};
  reduce_in_order(sources, &result, 1, DType::kBFloat16, ReduceOp::kSum);
  EXPECT_EQ(static_cast<float>(result), 258.0F);
}

TEST(OrderedReduction, Float16IsRoundedOnce) {
  // 2048 + 1 + 1: float16 has 11 significant bits.
  const float16 large(2048.0F);
  const float16 one(1.0F);
  float16 result;
  const std::vector<const void*> sources = {&large, &one, &one};
  reduce_in_order(sources, &result, 1, DType::kFloat16, ReduceOp::kSum);
  EXPECT_EQ(static_cast<float>(result), 2050.0F);
}

TEST(OrderedReduction, MaxAndMinPassNaNOn) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kMin}) {
    for (const std::vector<float>& values :
         {std::vector{kNaN, 1.0F, 2.0F}, {1.0F, kNaN, 2.0F}, {1.0F, 2.0F, kNaN}}) {
      float result = 0.0F;
      const std::vector<const void*> sources = {&values[0], &values[1], &values[2]};
      reduce_in_order(sources, &result, 1, DType::kFloat32, op);
      EXPECT_TRUE(std::isnan(result));
    }
  }
  const std::vector<std::int32_t> values = {-4, 9, 2};
  const std::vector<const void*> sources = {&values[0], &values[1], &values[2]};
  std::int32_t result = 0;
  reduce_in_order(sources, &result, 1, DType::kInt32, ReduceOp::kMax);
  EXPECT_EQ(result, 9);
  reduce_in_order(sources, &result, 1, DType::kInt32, ReduceOp::kMin);
  EXPECT_EQ(result, -4);
}

TEST(OrderedReduction, NoSourceIsAnError) {
  float result = 0.0F;
  EXPECT_THROW(reduce_in_order({}, &result, 1, DType::kFloat32, ReduceOp::kSum), Error);
}

}  // namespace
}  // namespace conclave
