// Finds a replica that has drifted from the others: a flipped bit, a lost update, a kernel that is not
// deterministic. Replicas of one tensor are equal bit for bit by construction, so any difference is a fault.
#pragma once

#include <cstdint>
#include <span>

#include "comm/process_grid.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

// Collective over grid.world(). Every rank passes the same tensors in the same order; replicated ones are
// compared over the world, those of experts over the expert-data group, by the XXH3 of their bytes. Throws
// SharedError, naming the tensor and the ranks whose copies differ from most others'; where no copy is in the
// majority, all of them. Costs one hash of the tensors, and two small messages where all is well.
void check_replicas(const ProcessGrid& grid, std::span<const ShardedTensor> tensors,
                    std::int64_t completed_steps);

}  // namespace conclave
