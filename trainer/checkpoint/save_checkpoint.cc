#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/durable_file.h"
#include "trainer/version.h"

namespace conclave {
namespace {

using std::filesystem::path;

// Runs a step of the save on this rank. What goes wrong becomes text for the ranks to agree on: a save may
// fail without ending the training.
template <class Action>
std::string failure_of(Action&& action) {
  try {
    action();
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

path unfinished(const path& target) { return target.string() + ".tmp"; }

// What was left by saves that did not finish.
void remove_unfinished(const path& directory) {
  std::vector<path> leftovers;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".tmp" && step_of(entry.path().stem())) leftovers.push_back(entry.path());
  }
  for (const path& leftover : leftovers) std::filesystem::remove_all(leftover);
}

std::int64_t byte_count(const ShardedTensor& tensor) {
  return static_cast<std::int64_t>(bytes_of(tensor.local).size());
}

// For each tensor, the rank that writes it (-1: expert tensors, which each rank of expert-data rank 0 writes
// its part of). Largest first, each to the rank with the fewest bytes so far; the same answer on every rank.
std::vector<int> deal_replicated_tensors(const ProcessGrid& grid, std::span<const ShardedTensor> tensors) {
  Communicator& world = grid.world();
  std::int64_t expert_bytes = 0;
  for (const ShardedTensor& tensor : tensors) {
    if (tensor.sharding == Sharding::kExpert && grid.expert_data().rank() == 0)
      expert_bytes += byte_count(tensor);
  }
  std::vector<std::int64_t> bytes_of_rank(static_cast<std::size_t>(world.size()));
  world.all_gather(BufferView{&expert_bytes, 1, DType::kInt64, {}}, buffer_view(std::span(bytes_of_rank)))
      .wait();

  std::vector<std::size_t> largest_first(tensors.size());
  std::iota(largest_first.begin(), largest_first.end(), std::size_t{0});
  std::ranges::stable_sort(largest_first, std::greater{},
                           [&](std::size_t i) { return byte_count(tensors[i]); });
  std::vector<int> writer(tensors.size(), -1);
  for (const std::size_t i : largest_first) {
    if (tensors[i].sharding == Sharding::kExpert) continue;
    const auto lightest = std::ranges::min_element(bytes_of_rank);
    *lightest += byte_count(tensors[i]);
    writer[i] = static_cast<int>(lightest - bytes_of_rank.begin());
  }
  return writer;
}

checkpoint::Tensor describe(const ShardedTensor& tensor) {
  checkpoint::Tensor description;
  description.set_name(tensor.name);
  description.set_dtype(std::string(safetensors_dtype(tensor.local.dtype())));
  for (int dimension = 0; dimension < tensor.global_shape.rank(); ++dimension) {
    description.add_shape(tensor.global_shape[dimension]);
  }
  description.set_sharding(tensor.sharding == Sharding::kExpert ? checkpoint::SHARDING_EXPERT
                                                                : checkpoint::SHARDING_REPLICATED);
  return description;
}

// Writes this rank's file and returns what is in it.
checkpoint::RankPieces write_pieces(const path& directory, const ProcessGrid& grid,
                                    std::span<const ShardedTensor> tensors, const std::vector<int>& writer) {
  const int rank = grid.world().rank();
  checkpoint::RankPieces pieces;
  pieces.mutable_file()->set_name(fmt::format("rank_{:05}.safetensors", rank));
  std::vector<NamedTensor> entries;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const ShardedTensor& tensor = tensors[i];
    const bool whole = tensor.sharding == Sharding::kReplicated;
    const std::int64_t all_rows = row_count(tensor.global_shape);
    const Range rows = whole ? Range{0, all_rows} : tensor.local_rows;
    CONCLAVE_CHECK(tensor.local.shape() == shape_of_rows(tensor.global_shape, rows.size()),
                   "{}: shape {} of the part in memory, expected {} rows of {}", tensor.name,
                   tensor.local.shape().text(), rows.size(), tensor.global_shape.text());
    const bool writes = whole ? writer[i] == rank : grid.expert_data().rank() == 0;
    if (!writes || rows.size() == 0) continue;
    entries.push_back({entry_name(tensor.name, rows, all_rows), tensor.local});
    checkpoint::Tensor& piece = *pieces.add_tensors();
    piece.set_name(tensor.name);
    checkpoint::Slice& slice = *piece.add_slices();
    slice.set_file(pieces.file().name());
    slice.set_row_begin(rows.begin);
    slice.set_row_end(rows.end);
    slice.set_xxh3_64(checksum(bytes_of(tensor.local)));
  }
  const WrittenSafetensors written = write_safetensors(directory / pieces.file().name(), entries);
  pieces.mutable_file()->set_bytes(written.bytes);
  pieces.mutable_file()->set_header_xxh3_64(written.header_checksum);
  return pieces;
}

checkpoint::Manifest assemble_manifest(const ProcessGrid& grid, const TrainingProgress& progress,
                                       std::span<const ShardedTensor> tensors,
                                       const std::vector<std::string>& pieces_of_ranks) {
  checkpoint::Manifest manifest;
  manifest.set_format_version(kCheckpointFormatVersion);
  manifest.set_conclave_version(version());
  manifest.mutable_progress()->set_step(progress.step);
  manifest.mutable_progress()->set_tokens(progress.tokens);
  manifest.mutable_progress()->set_next_sample(progress.next_sample);
  manifest.mutable_progress()->set_optimizer_updates(progress.optimizer_updates);
  manifest.mutable_progress()->set_seed(progress.seed);
  manifest.mutable_progress()->mutable_recent_losses()->Assign(progress.recent_losses.begin(),
                                                               progress.recent_losses.end());
  manifest.mutable_progress()->mutable_left_out_batches()->Assign(progress.left_out_batches.begin(),
                                                                  progress.left_out_batches.end());
  manifest.set_resolved_config(progress.resolved_config);
  manifest.mutable_layout()->set_world_size(grid.world().size());
  manifest.mutable_layout()->set_expert_parallel_size(grid.expert_parallel().size());

  std::map<std::string, checkpoint::Tensor*> by_name;
  for (const ShardedTensor& tensor : tensors) {
    *manifest.add_tensors() = describe(tensor);
    by_name[tensor.name] = manifest.mutable_tensors(manifest.tensors_size() - 1);
  }
  for (const std::string& serialised : pieces_of_ranks) {
    checkpoint::RankPieces pieces;
    CONCLAVE_CHECK(pieces.ParseFromString(serialised), "a rank's table of tensors arrived damaged");
    *manifest.add_files() = pieces.file();
    for (const checkpoint::Tensor& piece : pieces.tensors()) {
      const auto found = by_name.find(piece.name());
      CONCLAVE_CHECK(found != by_name.end(), "{} is in {} and unknown to rank 0", piece.name(),
                     pieces.file().name());
      found->second->mutable_slices()->MergeFrom(piece.slices());
    }
  }
  for (checkpoint::Tensor& tensor : *manifest.mutable_tensors()) {
    std::ranges::sort(*tensor.mutable_slices(), std::less{}, &checkpoint::Slice::row_begin);
  }
  check_manifest(manifest);
  return manifest;
}

// Makes the finished directory the checkpoint. An old one of the same step is swapped with it in one
// operation where the file system can, so that there is a complete one at every moment.
void put_in_place(const path& finished, const path& target) {
  const bool replaces = std::filesystem::exists(target);
  if (!replaces || ::renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
    CONCLAVE_CHECK(!replaces || errno == EINVAL || errno == ENOSYS, "can't replace {}: {}", target.string(),
                   std::strerror(errno));
    std::filesystem::remove_all(target);
    std::filesystem::rename(finished, target);
  }
  sync_directory(target.parent_path());
  std::filesystem::remove_all(finished);  // what it replaced, if the two were swapped
}

// Later steps, of a run that was taken up again from an older checkpoint, are not counted:
// they may be damaged.
void remove_old(const path& run_dir, std::int64_t newest_step, std::int64_t keep) {
  std::int64_t kept = 0;
  for (const path& candidate : find_checkpoints(run_dir)) {
    if (step_of(candidate) > newest_step || kept++ < keep) continue;
    std::filesystem::remove_all(candidate);
  }
}

}  // namespace

SaveResult save_checkpoint(const ProcessGrid& grid, const path& run_dir, const TrainingProgress& progress,
                           std::span<const ShardedTensor> tensors, std::int64_t keep) {
  Communicator& world = grid.world();
  const bool leads = world.rank() == 0;
  SaveResult result;
  result.path = checkpoint_path(run_dir, progress.step);
  const path directory = unfinished(result.path);
  const auto abandon = [&](const std::string& why) {
    std::error_code best_effort;  // the disk may be full or gone; the next save cleans up
    if (leads) std::filesystem::remove_all(directory, best_effort);
    result.message = why;
    return result;
  };

  std::string failure = first_failure(world, failure_of([&] {
                                        if (!leads) return;
                                        std::filesystem::create_directories(checkpoints_directory(run_dir));
                                        remove_unfinished(checkpoints_directory(run_dir));
                                        std::filesystem::create_directory(directory);
                                      }));
  if (!failure.empty()) return abandon(failure);

  const std::vector<int> writer = deal_replicated_tensors(grid, tensors);
  checkpoint::RankPieces pieces;
  failure =
      first_failure(world, failure_of([&] { pieces = write_pieces(directory, grid, tensors, writer); }));
  if (!failure.empty()) return abandon(failure);

  const std::vector<std::string> pieces_of_ranks = gather_on_rank_0(world, pieces.SerializeAsString());
  std::int64_t bytes = pieces.file().bytes();
  world.all_reduce(BufferView{&bytes, 1, DType::kInt64, {}}).wait();
  failure =
      first_failure(world, failure_of([&] {
                      if (!leads) return;
                      write_manifest(directory, assemble_manifest(grid, progress, tensors, pieces_of_ranks));
                      sync_directory(directory);
                      put_in_place(directory, result.path);
                    }));
  if (!failure.empty()) return abandon(failure);

  result.saved = true;
  result.bytes = bytes;
  result.message = first_failure(world, failure_of([&] {
                                   if (leads) remove_old(run_dir, progress.step, keep);
                                 }));
  return result;
}

}  // namespace conclave
