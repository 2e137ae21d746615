// The order of training: a pure function of (seed, global sample index), so that it depends on no rank, batch
// cut or resume, and nothing about it needs to be saved.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/data/source_schedule.h"

namespace conclave::data {

// What the sampler is told about a source.
struct SampledSource {
  std::string name;
  double weight = 1.0;
  std::int64_t windows = 0;  // training windows, at least 1
};

struct Sample {
  int source = 0;
  std::int64_t epoch = 0;   // of this source, from 0
  std::int64_t window = 0;  // in [0, windows)
};

class Sampler {
 public:
  Sampler(std::vector<SampledSource> sources, std::uint64_t seed);

  // Each source's windows come in a new shuffled order every epoch, and each comes once before any comes
  // again. The order depends on the source's name, not on the other sources.
  Sample at(std::int64_t sample) const;

  const SourceSchedule& schedule() const { return schedule_; }

 private:
  std::vector<SampledSource> sources_;
  std::uint64_t seed_;
  SourceSchedule schedule_;
};

}  // namespace conclave::data
