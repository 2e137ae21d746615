#include "layers/ops/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace conclave {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(VectorExp, IsWithinTwoUnitsInTheLastPlace) {
  for (float x = -87.33F; x <= 88.37F; x += 0.00037F) {
    const double expected = std::exp(static_cast<double>(x));
    const auto nearest = static_cast<float>(expected);
    const double unit = static_cast<double>(std::nextafter(nearest, kInfinity)) - nearest;
    ASSERT_NEAR(vector_exp(x), expected, 2 * unit) << x;
  }
}

TEST(VectorExp, EndsOfTheRange) {
  EXPECT_EQ(vector_exp(0.0F), 1.0F);
  EXPECT_EQ(vector_exp(-0.0F), 1.0F);
  EXPECT_EQ(vector_exp(-kInfinity), 0.0F);
  EXPECT_EQ(vector_exp(-88.0F), 0.0F);
  EXPECT_GT(vector_exp(-87.3F), 0.0F);
  EXPECT_TRUE(std::isfinite(vector_exp(kInfinity)));
  EXPECT_EQ(vector_exp(kInfinity), vector_exp(100.0F));
  EXPECT_TRUE(std::isnan(vector_exp(std::numeric_limits<float>::quiet_NaN())));
}

// A lane of a vectorised loop and its scalar remainder must agree, or results would depend on
// where an element lies.
TEST(VectorExp, SameInEveryPositionOfALoop) {
  constexpr std::size_t kCount = 37;
  const std::vector<float> x(kCount, -3.14159F);
  std::vector<float> y(kCount);
#pragma omp simd
  for (std::size_t i = 0; i < kCount; ++i) y[i] = vector_exp(x[i]);
  for (const float value : y) EXPECT_EQ(value, y[0]);
}

TEST(VectorSigmoid, Symmetric) {
  EXPECT_EQ(vector_sigmoid(0.0F), 0.5F);
  EXPECT_EQ(vector_sigmoid(40.0F), 1.0F);
  EXPECT_NEAR(vector_sigmoid(-200.0F), 0.0F, 1e-37F);
  EXPECT_NEAR(vector_sigmoid(2.0F) + vector_sigmoid(-2.0F), 1.0F, std::numeric_limits<float>::epsilon());
}

}  // namespace
}  // namespace conclave
