// Where the time of a rank goes. Every moment of a step belongs to one part: a Span says to which for as long
// as it lives, and a Span within it takes its time from the outer one, so that the parts add up to the whole.
//
// What ranks do together takes as long as the slowest needs to get there. How long, none can tell from its
// own time alone, and barriers would slow down what is measured: the durations of such calls are kept one by
// one, so that ranks can compare them when they report (trainer/metrics/time_use.h).
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace conclave {

enum class TimePart : std::uint8_t {
  kOther,      // norms, activations, permutations, routing, zeroing, ...
  kGemm,       // matrix products, of experts too
  kAttention,  // scores, softmax and weighted sums
  kExchange,   // tokens to experts and back, waiting included
  kReduction,  // sums over ranks: gradients, norms, routing counts; waiting included
  kOptimizer,
  kData,
  kNone,  // outside any span: belongs to no step
};
inline constexpr std::size_t kTimeParts = static_cast<std::size_t>(TimePart::kNone);

// Calls whose durations are compared between ranks. Every rank of the group makes the same calls in the same
// order.
enum class ComparedCall : std::uint8_t {
  kExchange,   // of the expert-parallel group
  kReduction,  // of the world
  kExperts,    // each forward and each backward of a layer's experts, of the expert-parallel group
  kNone,
};
inline constexpr std::size_t kComparedCalls = static_cast<std::size_t>(ComparedCall::kNone);

class StepClock {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // One span of a trace. `name` is a literal; `index` tells spans of one name apart, -1 where there is one.
  struct TraceEvent {
    const char* name;
    std::int64_t index;
    TimePoint begin;
    TimePoint end;
  };

  StepClock();

  // Since the last reset(). Spans that are still open count up to the last one that began or ended.
  double seconds(TimePart part) const { return seconds_[static_cast<std::size_t>(part)]; }
  std::span<double> calls(ComparedCall call) { return calls_[static_cast<std::size_t>(call)]; }
  void reset();

  // From now on spans are kept as they end, until they are taken.
  void start_trace() { is_tracing_ = true; }
  bool is_tracing() const { return is_tracing_; }
  std::vector<TraceEvent> take_trace();

 private:
  friend class Span;
  // Time up to `now` goes to the current part; what follows goes to `part`. Returns the current one.
  TimePart switch_to(TimePart part, TimePoint now);

  std::array<double, kTimeParts + 1> seconds_{};  // the last is of TimePart::kNone, which nobody asks for
  std::array<std::vector<double>, kComparedCalls> calls_;
  TimePart current_ = TimePart::kNone;
  TimePoint since_{};
  bool is_tracing_ = false;
  std::vector<TraceEvent> trace_;
};

// Costs two readings of the clock, and none without a clock; a profiler of GPUs sees a range of its name
// either way (comm/cuda/ranges.h). Spans end in the reverse order of their beginnings. One that continues a
// call adds to the last call of its kind: what ranks do in several pieces, which need not be even between
// them, is compared as a whole.
class Span {
 public:
  Span(StepClock* clock, const char* name, TimePart part, ComparedCall call = ComparedCall::kNone,
       std::int64_t index = -1, bool continues_call = false);
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  StepClock* clock_;
  const char* name_;
  std::int64_t index_ = -1;
  ComparedCall call_ = ComparedCall::kNone;
  bool continues_call_ = false;
  TimePart outer_ = TimePart::kNone;
  StepClock::TimePoint begin_{};
};

}  // namespace conclave
