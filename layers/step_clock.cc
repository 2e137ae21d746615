#include "layers/step_clock.h"

#include <utility>

#include "comm/cuda/ranges.h"

namespace conclave {
namespace {

// Enough for some steps of a deep model: in steady state nothing is taken from the system.
constexpr std::size_t kReservedCalls = 4096;

double seconds_between(StepClock::TimePoint begin, StepClock::TimePoint end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

StepClock::StepClock() {
  for (std::vector<double>& calls : calls_) calls.reserve(kReservedCalls);
}

void StepClock::reset() {
  seconds_ = {};
  for (std::vector<double>& calls : calls_) calls.clear();
}

std::vector<StepClock::TraceEvent> StepClock::take_trace() {
  is_tracing_ = false;
  return std::exchange(trace_, {});
}

TimePart StepClock::switch_to(TimePart part, TimePoint now) {
  seconds_[static_cast<std::size_t>(current_)] += seconds_between(since_, now);
  since_ = now;
  return std::exchange(current_, part);
}

Span::Span(StepClock* clock, const char* name, TimePart part, ComparedCall call, std::int64_t index,
           bool continues_call)
    : clock_(clock), name_(name), index_(index), call_(call), continues_call_(continues_call) {
  cuda::begin_range(name_, index_);
  if (clock_ == nullptr) return;
  begin_ = std::chrono::steady_clock::now();
  outer_ = clock_->switch_to(part, begin_);
}

Span::~Span() {
  cuda::end_range();
  if (clock_ == nullptr) return;
  const StepClock::TimePoint end = std::chrono::steady_clock::now();
  clock_->switch_to(outer_, end);
  if (call_ != ComparedCall::kNone) {
    std::vector<double>& calls = clock_->calls_[static_cast<std::size_t>(call_)];
    if (!continues_call_ || calls.empty()) calls.push_back(0);
    calls.back() += seconds_between(begin_, end);
  }
  if (clock_->is_tracing_) clock_->trace_.push_back({name_, index_, begin_, end});
}

}  // namespace conclave
