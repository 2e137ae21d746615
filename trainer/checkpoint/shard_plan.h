// Which rank writes which rows of which tensor: a pure function of the tensors and the layout, so that ranks
// need not talk about it and one process can write what any number of ranks would have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/base/partition.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

// A global tensor without its values.
struct GlobalTensor {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  Sharding sharding = Sharding::kReplicated;

  std::int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }  // a scalar is one row
  std::int64_t row_bytes() const { return shape.row_elements() * static_cast<std::int64_t>(size_of(dtype)); }
};

std::vector<GlobalTensor> global_tensors(std::span<const ShardedTensor> tensors);

struct Layout {
  int ranks = 1;
  int expert_parallel_size = 1;  // divides ranks
};

// Rows of one tensor: an entry of a rank's file.
struct ShardPiece {
  std::size_t tensor = 0;  // index in the list that the plan was made for
  Range rows;
};

// What each rank writes, in the order of the tensors; no piece is empty. Expert tensors are written by the
// ranks of expert-data rank 0, each its experts; what belongs to a parameter of experts ("adamw.m/<its
// name>") has its experts, each of as many rows. Replicated ones are dealt, the largest first, each to the
// rank with the fewest bytes so far. Those of owners are left out: whoever owns rows writes them, and
// `owned_bytes` (none, or one number a rank) says how many bytes that is.
std::vector<std::vector<ShardPiece>> plan_shards(std::span<const GlobalTensor> tensors, Layout layout,
                                                 std::span<const std::int64_t> owned_bytes = {});

// Adds a piece to those of a rank, where it belongs; an empty one is not added.
void add_piece(std::vector<ShardPiece>& pieces, ShardPiece piece);

}  // namespace conclave
