#include "trainer/bench/stopwatch.h"

#include <algorithm>
#include <numeric>
#include <span>

namespace conclave::bench {

void Stopwatch::lap() {
  if (stream_ != nullptr) {
    const cuda::Timestamp* now = mark();
    laps_.push_back({.begin = since_mark_, .end = now});
    since_mark_ = now;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  laps_.push_back({.seconds = std::chrono::duration<double>(now - since_).count()});
  since_ = now;
}

void Stopwatch::restart() {
  if (stream_ != nullptr) {
    since_mark_ = mark();
  } else {
    since_ = std::chrono::steady_clock::now();
  }
}

std::vector<double> Stopwatch::laps() const {
  if (stream_ != nullptr) stream_->synchronize();
  std::vector<double> seconds;
  for (const Lap& lap : laps_)
    seconds.push_back(lap.end != nullptr ? lap.end->seconds_since(*lap.begin) : lap.seconds);
  return seconds;
}

const cuda::Timestamp* Stopwatch::mark() {
  marks_.emplace_back().record(*stream_);
  return &marks_.back();
}

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::vector<double> median_laps(Communicator& world, const TimingOptions& options,
                                const std::function<void(Stopwatch&)>& repetition,
                                const cuda::Stream* stream) {
  const auto run = [&] {
    world.barrier().wait();
    Stopwatch watch(stream);
    repetition(watch);
    std::vector<double> laps = watch.laps();
    world.all_reduce(buffer_view(std::span(laps)), ReduceOp::kMax);
    return laps;
  };
  std::vector<double> last;
  for (int i = 0; i < options.warm_up; ++i) last = run();
  const double estimate = std::reduce(last.begin(), last.end());  // the same on every rank
  const int repetitions =
      static_cast<int>(std::clamp(options.seconds / estimate, static_cast<double>(options.least_repetitions),
                                  static_cast<double>(options.most_repetitions)));

  std::vector<std::vector<double>> samples(last.size());
  for (int i = 0; i < repetitions; ++i) {
    const std::vector<double> laps = run();
    for (std::size_t lap = 0; lap < laps.size(); ++lap) samples[lap].push_back(laps[lap]);
  }
  std::vector<double> medians;
  for (std::vector<double>& lap : samples) medians.push_back(median_of(std::move(lap)));
  return medians;
}

}  // namespace conclave::bench
