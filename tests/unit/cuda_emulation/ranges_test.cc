// Every Span is a range that a profiler sees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "layers/step_clock.h"
#include "tests/cuda_emulation/nvtx3/nvToolsExt.h"

namespace conclave {
namespace {

using emulation::Range;

Range range(const char* name, std::int64_t index, std::size_t depth) {
  return {.name = name, .index = index, .depth = depth, .has_ended = true};
}

void two_blocks(StepClock* clock) {
  const Span step(clock, "step", TimePart::kOther);
  for (const std::int64_t layer : {0, 1}) {
    const Span block(clock, "block", TimePart::kOther, ComparedCall::kNone, layer);
    const Span gemm(clock, "gemm", TimePart::kGemm);
  }
}

TEST(RangesTest, SpansAreRangesWithAndWithoutAClock) {
  StepClock clock;
  for (StepClock* used : {&clock, static_cast<StepClock*>(nullptr)}) {
    emulation::record_ranges();
    two_blocks(used);
    EXPECT_THAT(emulation::take_ranges(),
                testing::ElementsAre(range("step", -1, 0), range("block", 0, 1), range("gemm", -1, 2),
                                     range("block", 1, 1), range("gemm", -1, 2)));
  }
}

TEST(RangesTest, ARangeIsOpenAsLongAsItsSpan) {
  emulation::record_ranges();
  const Span step(nullptr, "step", TimePart::kOther);
  EXPECT_FALSE(emulation::take_ranges().at(0).has_ended);
}

}  // namespace
}  // namespace conclave
