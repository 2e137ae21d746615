// Which source each sample of a run is taken from. Sources take turns as evenly as whole samples allow, so
// that every batch has nearly the same mixture, and any sample's source is known without counting through the
// samples before it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::data {

class SourceSchedule {
 public:
  // One positive weight a source, at least one source. Shares are rounded to about a
  // millionth, no share to 0.
  explicit SourceSchedule(std::span<const double> weights);

  struct Turn {
    int source = 0;
    std::int64_t ordinal = 0;  // how many earlier samples were this source's
  };

  // The turn of global sample `sample` (0 .. 2^42).
  Turn turn(std::int64_t sample) const;

  // How many of the first `samples` samples are `source`'s: samples * share(source), less than the number of
  // sources away. The counts of all sources add up to `samples`.
  std::int64_t count(int source, std::int64_t samples) const;

  double share(int source) const;

 private:
  std::vector<std::int64_t> parts_;       // each source's share, in units of 1 / parts_from_[0]
  std::vector<std::int64_t> parts_from_;  // sum of the parts of this source and those after it
};

}  // namespace conclave::data
