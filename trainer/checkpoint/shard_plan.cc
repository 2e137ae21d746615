#include "trainer/checkpoint/shard_plan.h"

#include <algorithm>
#include <numeric>

namespace conclave {
namespace {

// The rows of the experts that rank `rank` writes; none on the ranks that hold a second copy of them.
Range written_rows(const GlobalTensor& tensor, Layout layout, int rank) {
  if (rank >= layout.expert_parallel_size) return {};
  const Range experts = partition(tensor.rows() / tensor.rows_per_expert, layout.expert_parallel_size, rank);
  return {experts.begin * tensor.rows_per_expert, experts.end * tensor.rows_per_expert};
}

}  // namespace

std::vector<GlobalTensor> global_tensors(std::span<const ShardedTensor> tensors) {
  std::vector<GlobalTensor> result;
  for (const ShardedTensor& tensor : tensors) {
    result.push_back(
        {tensor.name, tensor.local.dtype(), tensor.global_shape, tensor.sharding, tensor.rows_per_expert});
  }
  return result;
}

std::vector<std::vector<ShardPiece>> plan_shards(std::span<const GlobalTensor> tensors, Layout layout) {
  const auto ranks = static_cast<std::size_t>(layout.ranks);
  std::vector<std::vector<ShardPiece>> plan(ranks);
  std::vector<std::int64_t> bytes_of_rank(ranks, 0);
  const auto give = [&](std::size_t rank, std::size_t tensor, Range rows) {
    if (rows.size() == 0) return;
    plan[rank].push_back({tensor, rows});
    bytes_of_rank[rank] += rows.size() * tensors[tensor].row_bytes();
  };

  std::vector<std::size_t> replicated;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].sharding == Sharding::kReplicated) {
      replicated.push_back(i);
      continue;
    }
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      give(rank, i, written_rows(tensors[i], layout, static_cast<int>(rank)));
    }
  }
  std::ranges::stable_sort(replicated, std::greater{},
                           [&](std::size_t i) { return tensors[i].rows() * tensors[i].row_bytes(); });
  for (const std::size_t i : replicated) {
    const auto lightest = std::ranges::min_element(bytes_of_rank) - bytes_of_rank.begin();
    give(static_cast<std::size_t>(lightest), i, {0, tensors[i].rows()});
  }
  for (auto& pieces : plan) std::ranges::sort(pieces, std::less{}, &ShardPiece::tensor);
  return plan;
}

}  // namespace conclave
