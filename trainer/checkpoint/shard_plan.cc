#include "trainer/checkpoint/shard_plan.h"

#include <algorithm>
#include <map>
#include <string_view>

namespace conclave {
namespace {

// The experts whose rows a tensor has.
std::int64_t experts_of(const GlobalTensor& tensor,
                        const std::map<std::string_view, const GlobalTensor*>& by_name) {
  const std::size_t slash = tensor.name.find('/');
  if (slash == std::string::npos) return tensor.rows();
  const auto parameter = by_name.find(std::string_view(tensor.name).substr(slash + 1));
  return parameter == by_name.end() ? tensor.rows() : parameter->second->rows();
}

// The rows of its experts that rank `rank` writes; none on the ranks that hold a second copy of them.
Range written_rows(std::int64_t rows, std::int64_t experts, Layout layout, int rank) {
  if (rank >= layout.expert_parallel_size || experts == 0) return {};
  const Range held = partition(experts, layout.expert_parallel_size, rank);
  const std::int64_t rows_of_expert = rows / experts;
  return {held.begin * rows_of_expert, held.end * rows_of_expert};
}

}  // namespace

std::vector<GlobalTensor> global_tensors(std::span<const ShardedTensor> tensors) {
  std::vector<GlobalTensor> result;
  for (const ShardedTensor& tensor : tensors) {
    result.push_back({tensor.name, tensor.local.dtype(), tensor.global_shape, tensor.sharding});
  }
  return result;
}

std::vector<std::vector<ShardPiece>> plan_shards(std::span<const GlobalTensor> tensors, Layout layout,
                                                 std::span<const std::int64_t> owned_bytes) {
  std::map<std::string_view, const GlobalTensor*> by_name;
  for (const GlobalTensor& tensor : tensors) by_name[tensor.name] = &tensor;
  const auto ranks = static_cast<std::size_t>(layout.ranks);
  std::vector<std::vector<ShardPiece>> plan(ranks);
  std::vector<std::int64_t> bytes_of_rank(owned_bytes.begin(), owned_bytes.end());
  bytes_of_rank.resize(ranks, 0);
  const auto give = [&](std::size_t rank, std::size_t tensor, Range rows) {
    add_piece(plan[rank], {tensor, rows});
    bytes_of_rank[rank] += rows.size() * tensors[tensor].row_bytes();
  };

  std::vector<std::size_t> replicated;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].sharding == Sharding::kReplicated) replicated.push_back(i);
    if (tensors[i].sharding != Sharding::kExpert) continue;
    const std::int64_t experts = experts_of(tensors[i], by_name);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      give(rank, i, written_rows(tensors[i].rows(), experts, layout, static_cast<int>(rank)));
    }
  }
  std::ranges::stable_sort(replicated, std::greater{},
                           [&](std::size_t i) { return tensors[i].rows() * tensors[i].row_bytes(); });
  for (const std::size_t i : replicated) {
    const auto lightest = std::ranges::min_element(bytes_of_rank) - bytes_of_rank.begin();
    give(static_cast<std::size_t>(lightest), i, {0, tensors[i].rows()});
  }
  return plan;
}

void add_piece(std::vector<ShardPiece>& pieces, ShardPiece piece) {
  if (piece.rows.size() == 0) return;
  pieces.insert(std::ranges::upper_bound(pieces, piece.tensor, std::less{}, &ShardPiece::tensor), piece);
}

}  // namespace conclave
