// A global tensor of which this rank holds all (replicated) or a range of rows.
#pragma once

#include <cstdint>
#include <string>

#include "comm/base/partition.h"
#include "layers/tensor/tensor_view.h"

namespace conclave {

enum class Sharding : std::uint8_t {
  kReplicated,  // the whole tensor on every rank of the world
  kExpert,      // rows `local_rows` (experts) on this rank, the same on every rank of its expert-data group
  kOwner        // rows `local_rows` on this rank alone: sharded optimizer state
};

// What a checkpoint needs to know of one tensor; the memory belongs to the parameter or the optimizer.
struct ShardedTensor {
  std::string name;    // global and unique: "layers.3.moe.experts.down", "adamw.m/layers.3.moe.experts.down"
  Shape global_shape;  // of the whole tensor, all experts included
  Sharding sharding = Sharding::kReplicated;
  Range local_rows;  // rows of dimension 0 that `local` holds
  TensorView local;
};

}  // namespace conclave
