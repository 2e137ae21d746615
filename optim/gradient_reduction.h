// Adds up the gradients of all ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/process_grid.h"
#include "layers/parameter.h"

namespace conclave {

// Replicated parameters are summed over the world, experts over the expert-data group. Sums, not means: every
// loss is already divided by the tokens of the global batch. The result is bitwise the same on every rank of
// the group, repeatable, and does not depend on how tensors share buckets.
class GradientReduction {
 public:
  // `parameters`: in the same order on every rank. They, and the grid, must outlive the object.
  GradientReduction(const std::vector<Parameter*>& parameters, const ProcessGrid& grid);

  // Collective over the world; once per optimizer step, when the gradients of all micro-batches are in.
  void reduce();

 private:
  // What one collective sums: a piece of one large gradient, in place, or several small gradients, packed.
  struct Bucket {
    Communicator* group;
    std::vector<std::span<float>> gradients;
  };
  void plan(const std::vector<Parameter*>& parameters, Sharding sharding, Communicator& group);

  std::vector<Bucket> buckets_;
  std::vector<float> packed_;  // the bucket under way
};

}  // namespace conclave
