#include "optim/gradient_clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "comm/self/self_communicator.h"
#include "layers/tensor/philox.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

class GradientNormTest : public testing::Test {
 protected:
  GradientNormTest() {
    for (Parameter* parameter : parameters) {
      const RandomStream random(5, parameter->name());
      const auto gradient = parameter->gradient().values<float>();
      for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = random.normal(i);
    }
  }
  double norm() { return GradientNorm(Ownership(parameters, grid, /*sharded=*/false)).compute(); }

  std::unique_ptr<Communicator> world = make_self_communicator();
  ProcessGrid grid{*world, 1};
  Parameter large{"large", Shape{9, 10'001}};  // several blocks and a rest
  Parameter small{"small", Shape{3}};
  Parameter experts{"experts", Shape{5, 7, 3}, Range{0, 5}};
  Parameter empty{"empty", Shape{0, 4}};
  std::vector<Parameter*> parameters = {&large, &experts, &small, &empty};
};

TEST_F(GradientNormTest, EqualsTheRootOfTheSumOfSquares) {
  long double sum = 0;
  std::int64_t elements = 0;
  for (const Parameter* parameter : parameters) {
    for (const float value : parameter->gradient().values<float>()) {
      sum += static_cast<long double>(value) * static_cast<long double>(value);
      ++elements;
    }
  }
  const auto wanted = static_cast<double>(std::sqrt(sum));
  // Squares of floats are exact in double; every addition of positive terms rounds once, the root once more.
  const double bound = static_cast<double>(elements) * 0.5 * std::numeric_limits<double>::epsilon() * wanted;
  EXPECT_NEAR(norm(), wanted, bound);
  EXPECT_GT(wanted, 1.0);
}

TEST_F(GradientNormTest, LeavesOutWhatIsFrozen) {
  const double all = norm();
  const auto squares = [](std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return sum;
  };
  const double frozen =
      squares(large.gradient().values<float>()) + squares(experts.gradient().rows(1, 3).values<float>());
  large.freeze_rows({0, 9});
  experts.freeze_rows({1, 3});
  EXPECT_NEAR(norm() * norm(), all * all - frozen, 1e-11 * all * all);
}

TEST_F(GradientNormTest, DoesNotDependOnThreads) {
  const auto norm_on = [&](int threads) {
    const test::ThreadCount scope(threads);
    return norm();
  };
  EXPECT_EQ(norm_on(3), norm_on(1));
}

TEST_F(GradientNormTest, SeesValuesWhoseSquaresOverflowFloats) {
  for (Parameter* parameter : parameters) parameter->zero_gradient();
  EXPECT_EQ(norm(), 0.0);
  small.gradient().data<float>()[0] = 3e30F;
  experts.gradient().data<float>()[100] = 4e30F;
  EXPECT_DOUBLE_EQ(norm(), std::hypot(static_cast<double>(3e30F), static_cast<double>(4e30F)));
}

TEST_F(GradientNormTest, PassesNaNAndInfinityOn) {
  for (float* bad : {small.gradient().data<float>() + 2, experts.gradient().data<float>() + 104,
                     large.gradient().data<float>() + 90'000}) {
    const float good = *bad;
    *bad = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(norm()));
    *bad = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isinf(norm()));
    *bad = good;
  }
  EXPECT_TRUE(std::isfinite(norm()));
}

TEST(ClipScale, LimitsTheNorm) {
  EXPECT_EQ(clip_scale(4.0, 1.0), 0.25);
  EXPECT_EQ(clip_scale(1.0, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.0, 1.0), 1.0);
}

TEST(ClipScale, ZeroSwitchesClippingOff) { EXPECT_EQ(clip_scale(1e30, 0.0), 1.0); }

TEST(ClipScale, OfANormThatIsNotFiniteIsNaN) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double max_norm : {0.0, 1.0}) {
    EXPECT_TRUE(std::isnan(clip_scale(kInfinity, max_norm)));
    EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::quiet_NaN(), max_norm)));
  }
}

}  // namespace
}  // namespace conclave
