#include "layers/step_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace conclave {
namespace {

void pass(double milliseconds) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

// Sleeping takes at least as long as it was asked to: lower bounds hold on any machine.
TEST(StepClockTest, APartHasTheTimeThatNoInnerSpanTakes) {
  StepClock clock;
  const auto begin = std::chrono::steady_clock::now();
  {
    const Span step(&clock, "step", TimePart::kOther);
    {
      const Span gemm(&clock, "gemm", TimePart::kGemm, ComparedCall::kExperts);
      pass(2);
      const Span exchange(&clock, "exchange", TimePart::kExchange, ComparedCall::kExchange);
      pass(3);
    }
    pass(1);
  }
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_GE(clock.seconds(TimePart::kGemm), 2e-3);
  EXPECT_GE(clock.seconds(TimePart::kExchange), 3e-3);
  EXPECT_GE(clock.seconds(TimePart::kOther), 1e-3);
  double sum = 0;
  for (std::size_t part = 0; part < kTimeParts; ++part) sum += clock.seconds(static_cast<TimePart>(part));
  EXPECT_LE(sum, all);
  // The gemm's own call is as long as all that it holds.
  ASSERT_EQ(clock.calls(ComparedCall::kExperts).size(), 1U);
  ASSERT_EQ(clock.calls(ComparedCall::kExchange).size(), 1U);
  EXPECT_NEAR(clock.calls(ComparedCall::kExperts)[0],
              clock.seconds(TimePart::kGemm) + clock.seconds(TimePart::kExchange), 1e-12);
  EXPECT_NEAR(clock.calls(ComparedCall::kExchange)[0], clock.seconds(TimePart::kExchange), 1e-12);
}

// Three pieces of one call, and the next call.
TEST(StepClockTest, PiecesOfACallAddUp) {
  StepClock clock;
  for (const bool continues : {false, true, true, false}) {
    const Span experts(&clock, "experts", TimePart::kOther, ComparedCall::kExperts, -1, continues);
    pass(1);
  }
  const std::span<const double> calls = clock.calls(ComparedCall::kExperts);
  ASSERT_EQ(calls.size(), 2U);
  EXPECT_GE(calls[0], 3e-3);
  EXPECT_GE(calls[1], 1e-3);
  EXPECT_NEAR(calls[0] + calls[1], clock.seconds(TimePart::kOther), 1e-9);
}

TEST(StepClockTest, TimeOutsideOfSpansIsNobodys) {
  StepClock clock;
  { const Span data(&clock, "data", TimePart::kData); }
  const double before = clock.seconds(TimePart::kData);
  pass(2);
  { const Span gemm(&clock, "gemm", TimePart::kGemm); }
  EXPECT_EQ(clock.seconds(TimePart::kData), before);
  EXPECT_EQ(clock.seconds(TimePart::kOther), 0);
  clock.reset();
  EXPECT_EQ(clock.seconds(TimePart::kData), 0);
}

TEST(StepClockTest, TracesWhatEndsWhileItDoes) {
  StepClock clock;
  { const Span before(&clock, "before", TimePart::kOther); }
  clock.start_trace();
  {
    const Span block(&clock, "block", TimePart::kOther, ComparedCall::kNone, 3);
    const Span gemm(&clock, "gemm", TimePart::kGemm);
  }
  const auto events = clock.take_trace();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_STREQ(events[0].name, "gemm");
  EXPECT_STREQ(events[1].name, "block");
  EXPECT_EQ(events[1].index, 3);
  EXPECT_LE(events[1].begin, events[0].begin);
  EXPECT_LE(events[0].end, events[1].end);
  { const Span after(&clock, "after", TimePart::kOther); }
  EXPECT_TRUE(clock.take_trace().empty());
}

TEST(StepClockTest, WithoutAClockNothingHappens) { const Span span(nullptr, "gemm", TimePart::kGemm); }

}  // namespace
}  // namespace conclave
