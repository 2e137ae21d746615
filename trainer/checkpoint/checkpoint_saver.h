// Saving checkpoints, at once or beside training.
//
// All communication happens at the edges of training steps, on the thread that calls: MPI need not know of
// others.
//   begin()   rank 0 makes the directory; each rank copies what it will write (beside training only)
//             ... each rank writes and fsyncs its file
//   poll()    all ranks have written: rank 0 gathers what is where
//             ... rank 0 writes the manifest, renames, and removes old checkpoints
//   poll()    rank 0 is done: the result
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "layers/tensor/sharded_tensor.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.pb.h"
#include "trainer/checkpoint/shard_plan.h"

namespace conclave {

class CheckpointSaver {
 public:
  enum class Mode : std::uint8_t {
    kBlocking,   // the work is done in finish()
    kBackground  // the work is done by a thread; the tensors may change after begin()
  };

  // (to, from, bytes): copies a part of a tensor to the host, in begin(). Null: as memory of the host.
  using CopyOut = std::function<void(void*, const void*, std::size_t)>;

  // `grid` must outlive the saver. `copy_out` is for tensors that the host would better not read itself. See
  // save_checkpoint() for the others.
  CheckpointSaver(const ProcessGrid& grid, std::filesystem::path run_dir, std::int64_t keep, Mode mode,
                  CopyOut copy_out = nullptr);
  // Waits for this rank's own thread. A save that nobody finished stays without a name, for the next one to
  // remove.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // Collective. Starts a save as of save_checkpoint(); none may be in flight. In the blocking mode the
  // tensors must not change before finish().
  void begin(const TrainingProgress& progress, std::span<const ShardedTensor> tensors);

  // The same on every rank.
  bool in_flight() const { return stage_ != Stage::kIdle; }
  // Collective, cheap. The result of the save in flight if it has come to its end; nothing if there is none.
  std::optional<SaveResult> poll();
  // Collective. Waits for the end.
  std::optional<SaveResult> finish();

 private:
  enum class Stage : std::uint8_t { kIdle, kRefused, kWriting, kCommitting };
  // What a rank did, or why it could not.
  struct Written {
    checkpoint::RankPieces pieces;
    std::string failure;
  };
  struct Committed {
    std::string failure;
    std::string warning;  // of what follows the commit
  };

  std::vector<ShardPiece> pieces_of_this_rank(std::span<const ShardedTensor> tensors) const;
  std::vector<std::span<const std::byte>> staged(std::span<const ShardedTensor> tensors);
  Written write(const std::vector<std::span<const std::byte>>& values) const;
  void start_commit(const Written& written);
  checkpoint::Manifest manifest_of(const std::vector<std::string>& pieces) const;
  SaveResult end_commit();
  SaveResult end_refused();
  template <class Work>
  auto start(Work work);
  bool ready_everywhere(bool ready) const;
  bool leads() const { return grid_.world().rank() == 0; }

  const ProcessGrid& grid_;
  std::filesystem::path run_dir_;
  std::int64_t keep_;
  Mode mode_;
  CopyOut copy_out_;

  Stage stage_ = Stage::kIdle;
  TrainingProgress progress_;
  std::vector<GlobalTensor> tensors_;
  std::vector<ShardPiece> pieces_;  // of this rank
  std::vector<std::byte> staging_;  // their values, beside training; kept from save to save
  SaveResult result_;
  std::string refusal_;  // why the save fails
  std::future<Written> writing_;
  std::future<Committed> committing_;  // rank 0
};

}  // namespace conclave
