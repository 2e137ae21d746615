// Timing of pieces of work that all ranks do together.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "comm/communicator.h"

namespace conclave::bench {

// Laps of one repetition.
class Stopwatch {
 public:
  // Ends a lap; what follows belongs to the next. Every repetition has as many laps.
  void lap() {
    const auto now = std::chrono::steady_clock::now();
    laps_.push_back(std::chrono::duration<double>(now - since_).count());
    since_ = now;
  }
  // What was done since the last lap belongs to none.
  void restart() { since_ = std::chrono::steady_clock::now(); }
  const std::vector<double>& laps() const { return laps_; }

 private:
  std::vector<double> laps_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

struct TimingOptions {
  double seconds = 0.5;  // about how long all repetitions take together
  int least_repetitions = 7;
  int most_repetitions = 200;
  int warm_up = 2;
};

// Collective. The median over repetitions of each lap's seconds, of which each is the slowest rank's; ranks
// begin a repetition together.
std::vector<double> median_laps(Communicator& world, const TimingOptions& options,
                                const std::function<void(Stopwatch&)>& repetition);

double median_of(std::vector<double> values);

}  // namespace conclave::bench
