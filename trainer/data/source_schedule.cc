#include "trainer/data/source_schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/base/error.h"

namespace conclave::data {
namespace {

constexpr double kParts = 1 << 20;

}  // namespace

// The first source takes floor(n p / P) of the first n samples, p being its parts and P the parts of all; the
// second takes its share of the samples that the first has left, in the same way; and so on. Each count grows
// by 0 or 1 from n to n + 1, and exactly one of them grows: that source has the turn.
SourceSchedule::SourceSchedule(std::span<const double> weights) {
  CONCLAVE_CHECK(!weights.empty(), "a schedule of sources needs at least one source");
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (const double weight : weights) {
    CONCLAVE_CHECK(weight > 0 && std::isfinite(weight), "weight {} of a source must be a positive number",
                   weight);
    parts_.push_back(std::max<std::int64_t>(1, std::llround(weight / sum * kParts)));
  }
  parts_from_ = parts_;
  for (std::size_t source = parts_.size() - 1; source > 0; --source) {
    parts_from_[source - 1] += parts_from_[source];
  }
}

SourceSchedule::Turn SourceSchedule::turn(std::int64_t sample) const {
  std::int64_t left = sample;  // earlier samples that the sources before have left
  for (std::size_t source = 0;; ++source) {
    const std::int64_t taken = left * parts_[source] / parts_from_[source];
    const std::int64_t taken_after = (left + 1) * parts_[source] / parts_from_[source];
    // The last source takes all that is left to it, so the loop ends there at the latest.
    if (taken_after > taken) return {static_cast<int>(source), taken};
    left -= taken;
  }
}

std::int64_t SourceSchedule::count(int source, std::int64_t samples) const {
  std::int64_t left = samples;
  for (std::size_t earlier = 0; earlier < static_cast<std::size_t>(source); ++earlier) {
    left -= left * parts_[earlier] / parts_from_[earlier];
  }
  const auto index = static_cast<std::size_t>(source);
  return left * parts_[index] / parts_from_[index];
}

double SourceSchedule::share(int source) const {
  return static_cast<double>(parts_[static_cast<std::size_t>(source)]) / static_cast<double>(parts_from_[0]);
}

}  // namespace conclave::data
