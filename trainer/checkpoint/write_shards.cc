#include "trainer/checkpoint/write_shards.h"

#include <algorithm>
#include <map>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/durable_file.h"
#include "trainer/version.h"

namespace conclave {

checkpoint::RankPieces write_shard(const std::filesystem::path& directory, std::int64_t step, int rank,
                                   std::span<const GlobalTensor> tensors, std::span<const ShardPiece> pieces,
                                   const PieceSource& source) {
  std::vector<SafetensorsWriter::Entry> entries;
  std::map<std::string, const ShardPiece*> piece_of_entry;
  for (const ShardPiece& piece : pieces) {
    const GlobalTensor& tensor = tensors[piece.tensor];
    const std::string name = entry_name(tensor.name, piece.rows, tensor.rows());
    entries.push_back({name, tensor.dtype, shape_of_rows(tensor.shape, piece.rows.size())});
    piece_of_entry[name] = &piece;
  }

  checkpoint::RankPieces written;
  written.mutable_file()->set_name(fmt::format("rank_{:05}.safetensors", rank));
  SafetensorsWriter writer(directory / written.file().name(), std::move(entries),
                           {{"step", std::to_string(step)}, {"rank", std::to_string(rank)}});
  for (const SafetensorsWriter::Entry& entry : writer.entries()) {
    const ShardPiece& piece = *piece_of_entry.at(entry.name);
    Checksum sum;
    source(piece, [&](std::span<const std::byte> bytes) {
      sum.update(bytes);
      writer.write(bytes);
    });
    checkpoint::Tensor& description = *written.add_tensors();
    description.set_name(tensors[piece.tensor].name);
    checkpoint::Slice& slice = *description.add_slices();
    slice.set_file(written.file().name());
    slice.set_row_begin(piece.rows.begin);
    slice.set_row_end(piece.rows.end);
    slice.set_xxh3_64(sum.value());
  }
  const WrittenSafetensors file = writer.close_durably();
  written.mutable_file()->set_bytes(file.bytes);
  written.mutable_file()->set_header_xxh3_64(file.header_checksum);
  sync_directory(directory);
  return written;
}

checkpoint::Manifest assemble_manifest(const TrainingProgress& progress, Layout layout,
                                       std::span<const GlobalTensor> tensors,
                                       std::span<const checkpoint::RankPieces> pieces_of_ranks) {
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
  manifest.mutable_layout()->set_world_size(layout.ranks);
  manifest.mutable_layout()->set_expert_parallel_size(layout.expert_parallel_size);

  std::map<std::string, checkpoint::Tensor*> by_name;
  for (const GlobalTensor& tensor : tensors) {
    *manifest.add_tensors() = describe(tensor);
    by_name[tensor.name] = manifest.mutable_tensors(manifest.tensors_size() - 1);
  }
  for (const checkpoint::RankPieces& pieces : pieces_of_ranks) {
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

}  // namespace conclave
