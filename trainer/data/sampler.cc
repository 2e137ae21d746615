#include "trainer/data/sampler.h"

#include <utility>

#include "trainer/data/permutation.h"

namespace conclave::data {
namespace {

SourceSchedule schedule_of(const std::vector<SampledSource>& sources) {
  std::vector<double> weights;
  for (const SampledSource& source : sources) weights.push_back(source.weight);
  return SourceSchedule(weights);
}

}  // namespace

Sampler::Sampler(std::vector<SampledSource> sources, std::uint64_t seed)
    : sources_(std::move(sources)), seed_(seed), schedule_(schedule_of(sources_)) {}

Sample Sampler::at(std::int64_t sample) const {
  const SourceSchedule::Turn turn = schedule_.turn(sample);
  const SampledSource& source = sources_[static_cast<std::size_t>(turn.source)];
  const std::int64_t epoch = turn.ordinal / source.windows;
  const Permutation order(source.windows, seed_, "sampler/" + source.name, epoch);
  return {turn.source, epoch, order(turn.ordinal % source.windows)};
}

}  // namespace conclave::data
