// Checkpoints: a run's state on disk, complete or absent, and independent of the layout that wrote it.
//
//   <run_dir>/checkpoints/step_000500/
//     manifest.pb                 what is where, with checksums (manifest.proto); written last
//     rank_00000.safetensors ...  one a rank; readable by any safetensors library
//
// A replicated tensor is one entry under its own name in one rank's file; the ranks share the bytes evenly.
// The experts of a sharded tensor are entries of the ranks that held them (those of expert-data rank 0),
// named with their rows: "layers.0.moe.experts.down[4:8]". So are rows that one rank alone holds.
//
// Checked are: every byte of the manifest (its own checksum), the size and every header byte of each file,
// and every slice of a tensor (checksums in the manifest). A header names its step and rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/process_grid.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

// What a run is beside its tensors.
struct TrainingProgress {
  std::int64_t step = 0;               // optimizer steps taken, skipped ones included
  std::int64_t tokens = 0;             // tokens trained on
  std::int64_t next_sample = 0;        // global index of the first sample that has not been used
  std::int64_t optimizer_updates = 0;  // updates made (Optimizer::updates)
  std::uint64_t seed = 0;
  std::string resolved_config;                      // YAML
  std::vector<double> recent_losses = {};           // LossWindow::losses
  std::vector<std::int64_t> left_out_batches = {};  // BatchOrder::left_out

  friend bool operator==(const TrainingProgress&, const TrainingProgress&) = default;
};

// The same on every rank.
struct SaveResult {
  bool saved = false;
  std::filesystem::path path;  // where it is, or should have been
  std::int64_t bytes = 0;      // of all tensor files
  std::string message;  // not saved: why and on which rank; saved: what else went wrong (usually empty)
};

// Collective over grid.world(). Writes checkpoints/step_<step>, replacing one of that step, and then removes
// all but the `keep` newest of the steps up to this one. Every rank passes the same tensors in the same order
// (expert tensors with the rows that it holds). A failure to write on any rank is returned, not thrown:
// nothing is left behind, and older checkpoints stay.
SaveResult save_checkpoint(const ProcessGrid& grid, const std::filesystem::path& run_dir,
                           const TrainingProgress& progress, std::span<const ShardedTensor> tensors,
                           std::int64_t keep);

enum class LoadScope : std::uint8_t {
  kEverything,  // the checkpoint holds the given tensors and no others: resuming
  kNamedOnly    // it may hold more: evaluating needs no optimizer state
};

// Collective over `world`, which may have any size and layout: each rank reads the rows that it holds from
// the files that have them and checks every byte of those pieces. Throws SharedError naming
// the missing, duplicated or damaged piece; the tensors may have been written to by then.
TrainingProgress load_checkpoint(Communicator& world, const std::filesystem::path& checkpoint,
                                 std::span<const ShardedTensor> tensors,
                                 LoadScope scope = LoadScope::kEverything);

// The progress alone, from the manifest. Not collective.
TrainingProgress read_progress(const std::filesystem::path& checkpoint);

struct ResumeResult {
  std::optional<TrainingProgress> progress;  // empty: there is no checkpoint
  std::filesystem::path path;                // the one that was loaded
  std::vector<std::string> rejected;         // newer ones, each with what is wrong with it: to be shown
};

// Collective. Loads the newest checkpoint of the run that is whole. `accept` is called on every rank with a
// candidate's progress before any tensor is touched; what it throws (a configuration that differs) ends the
// search. Throws SharedError if there are checkpoints and none can be loaded: the run must not start anew
// over them.
ResumeResult resume_newest(Communicator& world, const std::filesystem::path& run_dir,
                           std::span<const ShardedTensor> tensors,
                           const std::function<void(const TrainingProgress&)>& accept);

// Checkpoints of a run, newest first: directories step_<number> with a manifest. Unfinished ones (".tmp") are
// none.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& run_dir);
// The same of a directory that holds checkpoints itself.
std::vector<std::filesystem::path> find_checkpoints_in(const std::filesystem::path& directory);
// The newest whose manifest can be read.
std::optional<std::filesystem::path> find_newest_checkpoint(const std::filesystem::path& run_dir);
// The checkpoint that a user means by a run directory, its checkpoints directory or a checkpoint itself;
// throws Error if there is none.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path);

}  // namespace conclave
