// log.profile: a trace of some steps, in the Trace Event Format that ui.perfetto.dev and chrome://tracing
// open.
#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "configs/run.pb.h"
#include "layers/step_clock.h"

namespace conclave {

// Traces log.profile steps, from the second that this process takes. One track a rank, whose spans are those
// of layers/step_clock.h. Ranks don't wait for each other in the traced steps; their clocks are compared
// before.
class StepTrace {
 public:
  // `world` and `clock` must outlive the trace.
  StepTrace(const config::Experiment& experiment, Communicator& world, StepClock& clock);

  // Around every step, all collective over the world. After the last one to be traced, or the last of the
  // run, the trace is written to run.dir/trace.json; returns what to say about that, else "".
  void begin_step();
  std::string end_step(bool run_ends);

 private:
  std::string write();

  std::string path_;
  Communicator& world_;
  StepClock& clock_;
  std::int64_t steps_to_trace_;
  std::int64_t steps_begun_ = 0;
  std::int64_t steps_traced_ = 0;
  StepClock::TimePoint zero_{};  // on this rank's clock, the moment that the trace counts from
};

// Collective. How far this rank's clock is ahead of rank 0's, to about the time of a barrier.
StepClock::TimePoint::duration clock_lead(Communicator& world);

}  // namespace conclave
