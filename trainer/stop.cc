#include "trainer/stop.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "trainer/signal_thread.h"

namespace conclave {
namespace {

// A signal handler can reach nothing but this.
volatile std::sig_atomic_t received_signal = 0;

void note_signal(int signal) {
  const auto wants_end = [](int number) { return number == SIGTERM || number == SIGINT; };
  // A batch system's SIGUSR1 is followed by its SIGTERM while the state is being saved: that is no second
  // wish to end.
  if (wants_end(signal) && wants_end(received_signal)) _exit(128 + signal);
  received_signal = signal;
}

// Reasons in rising order of precedence; a signal is its number plus kSignal.
enum Reason : std::int64_t { kNone = 0, kStopAfter = 1, kWallTime = 2, kStopFile = 3, kSignal = 100 };

}  // namespace

StopCondition::StopCondition(const config::Experiment& experiment, Communicator& world)
    : world_(world),
      stop_file_(experiment.run().dir() + "/STOP"),
      max_wall_time_s_(experiment.run().max_wall_time()),
      stop_after_(experiment.train().stop_after()),
      start_(std::chrono::steady_clock::now()) {
  received_signal = 0;
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : kStopSignals) sigaction(signal, &action, nullptr);
  std::error_code ignored;  // what can't be removed stops the run after its first step, and is named then
  if (world_.rank() == 0) std::filesystem::remove(stop_file_, ignored);
}

StopCondition::~StopCondition() {
  for (const int signal : kStopSignals) std::signal(signal, SIG_DFL);
}

bool StopCondition::should_stop(std::int64_t completed_steps) {
  std::int64_t reason = local_reason(completed_steps);
  world_.all_reduce(buffer_view(std::span(&reason, 1)), ReduceOp::kMax);
  switch (reason) {
    case kNone:
      return false;
    case kStopAfter:
      reason_ = fmt::format("train.stop_after={} was reached", stop_after_);
      break;
    case kWallTime:
      reason_ = fmt::format("run.max_wall_time of {:g} s was reached", max_wall_time_s_);
      break;
    case kStopFile:
      reason_ = fmt::format("{} exists", stop_file_);
      break;
    default:
      reason_ = fmt::format("received {}", strsignal(static_cast<int>(reason - kSignal)));
  }
  return true;
}

std::int64_t StopCondition::local_reason(std::int64_t completed_steps) const {
  if (received_signal != 0) return kSignal + received_signal;
  if (world_.rank() == 0 && std::filesystem::exists(stop_file_)) return kStopFile;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  if (max_wall_time_s_ > 0 && elapsed.count() >= max_wall_time_s_) return kWallTime;
  if (stop_after_ > 0 && completed_steps >= stop_after_) return kStopAfter;
  return kNone;
}

}  // namespace conclave
