// A global tensor of which this rank holds all (replicated) or a range of rows.
#pragma once

#include <cstdint>
#include <string>

#include "comm/base/partition.h"
#include "layers/tensor/tensor_view.h"

namespace conclave {

enum class Sharding : std::uint8_t {
  kReplicated,  // the whole tensor on every rank of the world
  kExpert  // rows `local_rows` (of experts) on this rank, the same on every rank of its expert-data group
};

// What a checkpoint needs to know of one tensor; the memory belongs to the parameter or the optimizer.
struct ShardedTensor {
  std::string name;    // global and unique: "layers.3.moe.experts.down", "adamw.m/layers.3.moe.experts.down"
  Shape global_shape;  // of the whole tensor, all experts included
  Sharding sharding = Sharding::kReplicated;
  Range local_rows;  // rows of dimension 0 that `local` holds
  TensorView local;
  std::int64_t rows_per_expert = 1;  // of kExpert: dimension 0 is experts times this
  // `local_rows` are on this rank alone, whatever `sharding` says of the tensor: sharded optimizer state.
  bool sole_owner = false;

  // The rows that `local` holds.
  Range held_rows() const {
    const bool whole = sharding == Sharding::kReplicated && !sole_owner;
    return whole ? Range{0, global_shape.rank() == 0 ? 1 : global_shape[0]} : local_rows;
  }
};

}  // namespace conclave
