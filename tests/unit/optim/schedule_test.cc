#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace conclave {
namespace {

constexpr double kPeak = 2e-3;

config::Schedule schedule(config::Schedule::Kind kind, std::int64_t warmup_steps) {
  config::Schedule schedule;
  schedule.set_kind(kind);
  schedule.set_warmup_steps(warmup_steps);
  schedule.set_min_lr_fraction(0.1);
  schedule.set_decay_fraction(0.25);
  return schedule;
}

constexpr config::Schedule::Kind kKinds[] = {config::Schedule::constant, config::Schedule::linear,
                                             config::Schedule::cosine, config::Schedule::wsd};

TEST(Schedule, WarmsUpLinearlyAndReachesThePeak) {
  for (const auto kind : kKinds) {
    const auto rate = [&](std::int64_t step) { return learning_rate(schedule(kind, 9), kPeak, 100, step); };
    EXPECT_DOUBLE_EQ(rate(0), kPeak * 0.1);
    EXPECT_DOUBLE_EQ(rate(4), kPeak * 0.5);
    EXPECT_DOUBLE_EQ(rate(8), kPeak * 0.9);
    EXPECT_DOUBLE_EQ(rate(9), kPeak);
  }
}

TEST(Schedule, EndsAtTheLowestRateUnlessConstant) {
  for (const auto kind : kKinds) {
    const double last = kind == config::Schedule::constant ? kPeak : 0.1 * kPeak;
    EXPECT_NEAR(learning_rate(schedule(kind, 9), kPeak, 100, 99), last, 1e-15);
    EXPECT_NEAR(learning_rate(schedule(kind, 0), kPeak, 100, 99), last, 1e-15);
  }
}

TEST(Schedule, MiddleOfEachKind) {
  // 101 steps, no warm-up: step 50 is halfway, step 25 a quarter of the way.
  const auto rate = [](config::Schedule::Kind kind, std::int64_t step) {
    return learning_rate(schedule(kind, 0), kPeak, 101, step) / kPeak;
  };
  EXPECT_DOUBLE_EQ(rate(config::Schedule::constant, 50), 1.0);
  EXPECT_DOUBLE_EQ(rate(config::Schedule::linear, 50), 0.55);
  EXPECT_DOUBLE_EQ(rate(config::Schedule::linear, 25), 0.775);
  EXPECT_DOUBLE_EQ(rate(config::Schedule::cosine, 50), 0.55);
  EXPECT_DOUBLE_EQ(rate(config::Schedule::cosine, 25), 0.1 + 0.9 * 0.5 * (1.0 + std::sqrt(0.5)));
}

TEST(Schedule, WarmupStableDecay) {
  // The last quarter of 101 steps: 25 steps of decay before the last one.
  const auto rate = [](std::int64_t step) {
    return learning_rate(schedule(config::Schedule::wsd, 10), kPeak, 101, step) / kPeak;
  };
  EXPECT_DOUBLE_EQ(rate(10), 1.0);
  EXPECT_DOUBLE_EQ(rate(75), 1.0);
  EXPECT_LT(rate(76), 1.0);
  EXPECT_DOUBLE_EQ(rate(80), 1.0 - 0.9 * 0.2);
  EXPECT_DOUBLE_EQ(rate(100), 0.1);
}

TEST(Schedule, NeverRisesAfterTheWarmupAndStaysInBounds) {
  for (const auto kind : kKinds) {
    for (const std::int64_t steps : {1, 2, 10, 57}) {
      for (const std::int64_t warmup : {0, 1, 9, 80}) {
        double previous = kPeak;
        for (std::int64_t step = 0; step < steps; ++step) {
          const double rate = learning_rate(schedule(kind, warmup), kPeak, steps, step);
          EXPECT_GT(rate, 0.0);
          EXPECT_LE(rate, kPeak);
          if (step >= warmup) {
            EXPECT_LE(rate, previous);
            EXPECT_GE(rate, 0.1 * kPeak * (1.0 - 1e-12));
            previous = rate;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave
