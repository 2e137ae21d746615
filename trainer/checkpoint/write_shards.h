// What a save writes: one rank's file, and the manifest over the files of all ranks. No communication, no
// commit.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/shard_plan.h"

namespace conclave {

// Takes the next bytes of a piece.
using ByteSink = std::function<void(std::span<const std::byte>)>;
// Gives the bytes of a piece, in order, in as many calls of the sink as it likes.
using PieceSource = std::function<void(const ShardPiece&, const ByteSink&)>;

// Writes rank_<rank>.safetensors into `directory` and returns when it is on the disk. The header names
// step and rank: a file of another step or rank in its place is found although all shapes agree.
checkpoint::RankPieces write_shard(const std::filesystem::path& directory, std::int64_t step, int rank,
                                   std::span<const GlobalTensor> tensors, std::span<const ShardPiece> pieces,
                                   const PieceSource& source);

// Throws Error unless the pieces of the ranks make up every tensor.
checkpoint::Manifest assemble_manifest(const TrainingProgress& progress, Layout layout,
                                       std::span<const GlobalTensor> tensors,
                                       std::span<const checkpoint::RankPieces> pieces_of_ranks);

}  // namespace conclave
