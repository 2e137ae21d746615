// In what two checkpoints differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "configs/show.h"

namespace conclave {

// A tensor that both have, with the same shape and type, and that is not the same to the last bit.
struct TensorDifference {
  std::string name;
  std::string shape;
  std::int64_t elements = 0;
  std::int64_t different = 0;  // elements whose bits differ
  double max_absolute = 0;     // |a - b|; NaN where only one of the two is NaN
  double max_relative = 0;     // |a - b| / max(|a|, |b|), 0 where both are 0
};

struct CheckpointComparison {
  std::int64_t step_a = 0;
  std::int64_t step_b = 0;
  std::int64_t identical = 0;  // tensors, to the last bit
  std::vector<TensorDifference> different;
  std::vector<std::string> incomparable;  // only in one, or of another shape or type: in words
  std::vector<config::Difference> configuration;
  std::string configuration_fault;  // why one of them, perhaps of another version, can't be compared

  bool same_tensors() const { return different.empty() && incomparable.empty(); }
};

// They may be of different layouts. Every byte is checked; throws Error for a damaged checkpoint.
CheckpointComparison compare_checkpoints(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace conclave
