#include "trainer/loss_spike.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <limits>
#include <numeric>

namespace conclave {
namespace {

// The definition, by the sum of squares instead of deviations.
double expected_limit(const std::deque<double>& last) {
  const auto count = static_cast<double>(last.size());
  const double mean = std::accumulate(last.begin(), last.end(), 0.0) / count;
  double squares = 0;
  for (const double loss : last) squares += loss * loss;
  return mean + 6 * std::sqrt(squares / count - mean * mean);
}

double loss_of(int i) { return 3 + std::sin(1.7 * i) + 0.01 * i; }

TEST(LossWindow, SaysNothingAboutFewLosses) {
  LossWindow window;
  for (int i = 0; i < 31; ++i) {
    EXPECT_EQ(window.limit(), std::numeric_limits<double>::infinity());
    EXPECT_FALSE(window.is_spike(1e30));
    window.add(loss_of(i));
  }
  window.add(loss_of(31));
  EXPECT_TRUE(window.is_spike(1e30));
}

TEST(LossWindow, LimitIsOfTheLast128) {
  LossWindow window;
  std::deque<double> last;
  for (int i = 0; i < 300; ++i) {
    window.add(loss_of(i));
    last.push_back(loss_of(i));
    if (last.size() > 128) last.pop_front();
    if (i < 31) continue;
    const double limit = expected_limit(last);
    ASSERT_NEAR(window.limit(), limit, 1e-9) << i;
    ASSERT_FALSE(window.is_spike(limit - 1e-6));
    ASSERT_TRUE(window.is_spike(limit + 1e-6));
  }
}

TEST(LossWindow, ARestoredOneGoesOnAlike) {
  LossWindow first;
  for (int i = 0; i < 150; ++i) first.add(loss_of(i));
  LossWindow second;
  second.restore(first.losses());
  for (int i = 150; i < 200; ++i) {
    EXPECT_EQ(first.limit(), second.limit());
    first.add(loss_of(i));
    second.add(loss_of(i));
  }
}

TEST(LossWindow, NotANumberIsNoSpike) {
  LossWindow window;
  for (int i = 0; i < 40; ++i) window.add(loss_of(i));
  EXPECT_FALSE(window.is_spike(std::numeric_limits<double>::quiet_NaN()));
}

}  // namespace
}  // namespace conclave
