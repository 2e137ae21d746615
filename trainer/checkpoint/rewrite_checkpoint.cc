#include "trainer/checkpoint/rewrite_checkpoint.h"

#include <vector>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/commit.h"
#include "trainer/checkpoint/write_shards.h"

namespace conclave {
namespace {

// What `write` has left at `path` goes if it fails.
template <class Write>
void write_or_remove(const std::filesystem::path& path, Write&& write) {
  try {
    write();
  } catch (...) {
    std::error_code best_effort;
    std::filesystem::remove_all(path, best_effort);
    throw;
  }
}

}  // namespace

void reshard_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                        Layout layout) {
  CONCLAVE_CHECK(layout.ranks >= 1 && layout.expert_parallel_size >= 1 &&
                     layout.ranks % layout.expert_parallel_size == 0,
                 "expert-parallel size {} does not divide {} ranks", layout.expert_parallel_size,
                 layout.ranks);
  CONCLAVE_CHECK(!std::filesystem::exists(target), "{} exists: remove it or name another place",
                 target.string());
  CheckpointReader reader(source);
  const TrainingProgress progress = progress_of(reader.manifest());
  CONCLAVE_CHECK(step_of(target).value_or(progress.step) == progress.step && !is_unfinished(target),
                 "{} is the name of another checkpoint than that of step {}", target.string(), progress.step);
  std::vector<GlobalTensor> tensors;
  for (const checkpoint::Tensor& tensor : reader.manifest().tensors())
    tensors.push_back(global_tensor(tensor));

  const std::filesystem::path unfinished = unfinished_path(target);
  make_unfinished(target);
  write_or_remove(unfinished, [&] {
    std::vector<checkpoint::RankPieces> written;
    auto plan = plan_shards(tensors, layout);
    for (int rank = 0; rank < layout.ranks; ++rank) {
      std::vector<ShardPiece>& pieces = plan[static_cast<std::size_t>(rank)];
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].sharding == Sharding::kOwner)
          add_piece(pieces, {i, partition(tensors[i].rows(), layout.ranks, rank)});
      }
      const auto read = [&](const ShardPiece& piece, const ByteSink& sink) {
        reader.rows(*reader.find(tensors[piece.tensor].name), piece.rows,
                    [&](Range, std::span<const std::byte> bytes) { sink(bytes); });
      };
      written.push_back(write_shard(unfinished, progress.step, rank, tensors, pieces, read));
    }
    commit(target, assemble_manifest(progress, layout, tensors, written));
  });
}

Consolidation consolidate_checkpoint(const std::filesystem::path& source, const std::filesystem::path& file,
                                     bool with_optimizer_state) {
  CheckpointReader reader(source);
  const TrainingProgress progress = progress_of(reader.manifest());
  std::vector<SafetensorsWriter::Entry> entries;
  for (const checkpoint::Tensor& tensor : reader.manifest().tensors()) {
    if (is_optimizer_state(tensor.name()) && !with_optimizer_state) continue;
    const GlobalTensor global = global_tensor(tensor);
    entries.push_back({global.name, global.dtype, global.shape});
  }

  const std::filesystem::path unfinished = file.string() + ".tmp";
  Consolidation result;
  write_or_remove(unfinished, [&] {
    SafetensorsWriter writer(unfinished, std::move(entries),
                             {{"conclave_version", reader.manifest().conclave_version()},
                              {"step", std::to_string(progress.step)},
                              {"tokens", std::to_string(progress.tokens)},
                              {"seed", std::to_string(progress.seed)},
                              {"config", progress.resolved_config}});
    for (const SafetensorsWriter::Entry& entry : writer.entries()) {
      const checkpoint::Tensor& tensor = *reader.find(entry.name);
      reader.rows(tensor, {0, global_tensor(tensor).rows()},
                  [&](Range, std::span<const std::byte> bytes) { writer.write(bytes); });
    }
    result.tensors = static_cast<std::int64_t>(writer.entries().size());
    result.bytes = writer.close_durably().bytes;
    rename_path(unfinished, file);
    sync_directory(file.parent_path());
  });
  return result;
}

bool is_optimizer_state(const std::string& tensor) { return tensor.find('/') != std::string::npos; }

}  // namespace conclave
