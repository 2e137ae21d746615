#include "trainer/replica_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/checkpoint/safetensors.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

std::int64_t hash_of(std::span<const std::byte> bytes) {
  return std::bit_cast<std::int64_t>(checksum(bytes));
}

// One group of ranks and the hashes of what they have copies of.
struct Replicas {
  Communicator* group = nullptr;
  int first_rank = 0;   // in the world, of the group's rank 0
  int rank_stride = 1;  // between neighbours of the group
  std::vector<std::string> names;
  std::vector<std::int64_t> hashes;  // [tensors]
};

bool agree(const Replicas& replicas) {
  const std::int64_t own = hash_of(std::as_bytes(std::span(replicas.hashes)));
  std::int64_t least = own;
  std::int64_t greatest = own;
  replicas.group->all_reduce(buffer_view(std::span(&least, 1)), ReduceOp::kMin);
  replicas.group->all_reduce(buffer_view(std::span(&greatest, 1)), ReduceOp::kMax);
  return least == greatest;
}

// What is wrong with a tensor whose copy on the group's rank r has the hash hashes[r].
std::string describe(const Replicas& replicas, const std::string& tensor,
                     const std::vector<std::int64_t>& hashes) {
  std::map<std::int64_t, std::int64_t> copies;
  for (const std::int64_t hash : hashes) ++copies[hash];
  const auto common = std::ranges::max_element(copies, std::less{},
                                               &std::map<std::int64_t, std::int64_t>::value_type::second);
  const bool majority = 2 * common->second > static_cast<std::int64_t>(hashes.size());

  std::vector<std::string> odd;
  for (std::size_t r = 0; r < hashes.size(); ++r) {
    if (majority && hashes[r] == common->first) continue;
    odd.push_back(fmt::format("rank {} (XXH3 {:016x})",
                              replicas.first_rank + static_cast<int>(r) * replicas.rank_stride,
                              std::bit_cast<std::uint64_t>(hashes[r])));
  }
  if (majority) {
    return fmt::format("{} of {} differs from the {} other replicas", tensor, fmt::join(odd, ", "),
                       common->second);
  }
  return fmt::format("{} differs between {}, and no copy is in the majority", tensor, fmt::join(odd, ", "));
}

// Collective over the group: the first tensor that differs, if one does.
std::optional<std::string> first_difference(const Replicas& replicas) {
  const std::size_t tensors = replicas.hashes.size();
  const auto ranks = static_cast<std::size_t>(replicas.group->size());
  std::vector<std::int64_t> all(tensors * ranks);  // [ranks, tensors]
  replicas.group->all_gather(buffer_view(std::span<const std::int64_t>(replicas.hashes)),
                             buffer_view(std::span(all)));
  for (std::size_t t = 0; t < tensors; ++t) {
    std::vector<std::int64_t> copies;  // [ranks]
    for (std::size_t r = 0; r < ranks; ++r) copies.push_back(all[r * tensors + t]);
    if (std::ranges::adjacent_find(copies, std::not_equal_to{}) != copies.end()) {
      return describe(replicas, replicas.names[t], copies);
    }
  }
  return std::nullopt;
}

}  // namespace

void check_replicas(const ProcessGrid& grid, std::span<const ShardedTensor> tensors,
                    std::int64_t completed_steps) {
  Replicas dense{.group = &grid.world(), .first_rank = 0, .rank_stride = 1, .names = {}, .hashes = {}};
  Replicas experts{.group = &grid.expert_data(),
                   .first_rank = grid.expert_parallel().rank(),
                   .rank_stride = grid.expert_parallel().size(),
                   .names = {},
                   .hashes = {}};
  for (const ShardedTensor& tensor : tensors) {
    Replicas& replicas = tensor.sharding == Sharding::kReplicated ? dense : experts;
    replicas.names.push_back(tensor.name);
    replicas.hashes.push_back(hash_of(bytes_of(tensor.local)));
  }

  std::optional<Error> failure;
  for (const Replicas* replicas : {&dense, &experts}) {
    if (agree(*replicas)) continue;
    const std::optional<std::string> difference = first_difference(*replicas);
    if (difference && !failure) {
      failure =
          Error(fmt::format("after step {}: {}. A replica was damaged in memory or computed something else: "
                            "take that machine out "
                            "and start again from the newest checkpoint",
                            completed_steps, *difference));
    }
  }
  throw_if_any_failed(grid.world(), failure);
}

}  // namespace conclave
