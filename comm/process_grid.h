// The two-dimensional arrangement of ranks: world = expert_parallel_size x expert-data groups.
//
//   rank = expert_data_rank * expert_parallel_size + expert_parallel_rank
//
// Dense parameters are replicated over the world. Expert e lives on the rank of each
// expert-parallel group whose shard holds e, and is replicated over the expert-data group
// (the ranks with the same expert_parallel_rank).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/base/partition.h"
#include "comm/communicator.h"

namespace conclave {

class ProcessGrid {
 public:
  // Collective over `world`. expert_parallel_size must divide world.size(), else ConfigError naming the sizes
  // that would work. `world` must outlive the grid.
  ProcessGrid(Communicator& world, int expert_parallel_size);

  Communicator& world() const { return *world_; }
  // The ranks that share one copy of the experts.
  Communicator& expert_parallel() const { return *expert_parallel_; }
  // The ranks that hold the same experts.
  Communicator& expert_data() const { return *expert_data_; }

  // The experts of this rank, of any expert_parallel rank; contiguous global ids,
  // sizes differ by at most one.
  Range local_experts(std::int64_t experts) const;
  Range experts_of(std::int64_t experts, int expert_parallel_rank) const;

  // A table of ranks and their coordinates for the start-up output.
  std::string describe(std::int64_t experts) const;

 private:
  Communicator* world_;
  std::unique_ptr<Communicator> expert_parallel_;
  std::unique_ptr<Communicator> expert_data_;
};

// The value of `expert_parallel_size: auto`: the largest divisor of world_size that is at most `experts` (1
// for a dense model).
int automatic_expert_parallel_size(int world_size, std::int64_t experts);

}  // namespace conclave
