// Timing of pieces of work that all ranks do together.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "comm/cuda/timestamp.h"

namespace conclave::bench {

// Laps of one repetition, by the host's clock, or by that of the GPU whose work is measured: there the next
// lap's work is enqueued while this one's is done, as in training.
class Stopwatch {
 public:
  // `stream` null: the host computes.
  explicit Stopwatch(const cuda::Stream* stream) : stream_(stream) { restart(); }

  // Ends a lap; what follows belongs to the next. Every repetition has as many laps.
  void lap();
  // What was done since the last lap belongs to none.
  void restart();
  // Seconds of each, once its work is done.
  std::vector<double> laps() const;

 private:
  struct Lap {
    double seconds = 0;                      // by the host's clock
    const cuda::Timestamp* begin = nullptr;  // by the GPU's
    const cuda::Timestamp* end = nullptr;
  };
  const cuda::Timestamp* mark();

  const cuda::Stream* stream_;
  std::deque<cuda::Timestamp> marks_;  // which stay where they are
  std::vector<Lap> laps_;
  std::chrono::steady_clock::time_point since_;
  const cuda::Timestamp* since_mark_ = nullptr;
};

struct TimingOptions {
  double seconds = 0.5;  // about how long all repetitions take together
  int least_repetitions = 7;
  int most_repetitions = 200;
  int warm_up = 2;
};

// Collective. The median over repetitions of each lap's seconds, of which each is the slowest rank's; ranks
// begin a repetition together. `stream` as for Stopwatch.
std::vector<double> median_laps(Communicator& world, const TimingOptions& options,
                                const std::function<void(Stopwatch&)>& repetition,
                                const cuda::Stream* stream = nullptr);

double median_of(std::vector<double> values);

}  // namespace conclave::bench
