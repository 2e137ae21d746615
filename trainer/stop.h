// When a run stops before its last step: signals, a file named STOP, the wall-time limit, train.stop_after.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "configs/run.pb.h"

namespace conclave {

class StopCondition {
 public:
  // Takes over kStopSignals, which a program that computes must receive on a SignalThread: the first asks for
  // a stop; a second SIGTERM or SIGINT, not counting SIGUSR1 and SIGUSR2, ends the process at once. Removes a
  // STOP file that an earlier run left.
  StopCondition(const config::Experiment& experiment, Communicator& world);
  ~StopCondition();
  StopCondition(const StopCondition&) = delete;
  StopCondition& operator=(const StopCondition&) = delete;

  // Collective, at the end of each step: true on every rank if any rank wants to stop. `completed_steps`
  // counts the steps of the whole run.
  bool should_stop(std::int64_t completed_steps);
  // Why, in words; the same on every rank once should_stop() was true.
  const std::string& reason() const { return reason_; }

 private:
  std::int64_t local_reason(std::int64_t completed_steps) const;

  Communicator& world_;
  std::string stop_file_;
  double max_wall_time_s_;
  std::int64_t stop_after_;
  std::chrono::steady_clock::time_point start_;
  std::string reason_;
};

}  // namespace conclave
