#include "trainer/step_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <span>
#include <vector>

#include "trainer/checkpoint/agreement.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

double microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

// The events of one rank, separated by commas.
std::string track(int rank, const std::vector<StepClock::TraceEvent>& events, StepClock::TimePoint zero) {
  std::string json = fmt::format(
      R"({{"name":"thread_name","ph":"M","pid":0,"tid":{0},"args":{{"name":"rank {0}"}}}})", rank);
  for (const StepClock::TraceEvent& event : events) {
    fmt::format_to(std::back_inserter(json), ",\n{{\"name\":\"{}{}\",\"ph\":\"X\",\"pid\":0,\"tid\":{},",
                   event.name, event.index < 0 ? "" : fmt::format(" {}", event.index), rank);
    fmt::format_to(std::back_inserter(json), "\"ts\":{:.3f},\"dur\":{:.3f}}}",
                   microseconds(event.begin - zero), microseconds(event.end - event.begin));
  }
  return json;
}

}  // namespace

Clock::duration clock_lead(Communicator& world) {
  constexpr int kBarriers = 31;  // the median of the leads seen after each
  std::vector<std::int64_t> leads;
  for (int i = 0; i < kBarriers; ++i) {
    world.barrier().wait();
    const std::int64_t now = Clock::now().time_since_epoch().count();
    std::int64_t of_rank_0 = now;
    world.broadcast(buffer_view(std::span(&of_rank_0, 1)), 0).wait();
    leads.push_back(now - of_rank_0);
  }
  std::ranges::nth_element(leads, leads.begin() + kBarriers / 2);
  return Clock::duration(leads[kBarriers / 2]);
}

StepTrace::StepTrace(const config::Experiment& experiment, Communicator& world, StepClock& clock)
    : path_(experiment.run().dir() + "/trace.json"),
      world_(world),
      clock_(clock),
      steps_to_trace_(experiment.log().profile()) {}

void StepTrace::begin_step() {
  const bool is_first = steps_begun_ == 0;
  ++steps_begun_;
  if (is_first || steps_traced_ > 0 || steps_to_trace_ == 0 || clock_.is_tracing()) return;
  const Clock::duration lead = clock_lead(world_);
  std::int64_t zero = Clock::now().time_since_epoch().count();
  world_.broadcast(buffer_view(std::span(&zero, 1)), 0).wait();
  zero_ = Clock::time_point(Clock::duration(zero)) + lead;
  clock_.start_trace();
}

std::string StepTrace::end_step(bool run_ends) {
  if (!clock_.is_tracing()) return "";
  ++steps_traced_;
  return steps_traced_ == steps_to_trace_ || run_ends ? write() : "";
}

std::string StepTrace::write() {
  const std::vector<std::string> tracks =
      gather_on_rank_0(world_, track(world_.rank(), clock_.take_trace(), zero_));
  if (world_.rank() != 0) return "";
  std::string json = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (const std::string& events : tracks) json += (&events == &tracks.front() ? "" : ",\n") + events;
  json += "\n]}\n";
  try {
    replace_file_durably(path_, json);
  } catch (const std::exception& error) {
    return fmt::format("no trace of the steps: {}", error.what());
  }
  return fmt::format("trace of {} steps in {}: open it in ui.perfetto.dev or chrome://tracing", steps_traced_,
                     path_);
}

}  // namespace conclave
