#include "trainer/checkpoint/checkpoint_saver.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/commit.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/write_shards.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

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

// Not yet started counts as ready: it is done when asked for.
template <class Result>
bool is_ready(const std::future<Result>& future) {
  return future.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

Layout layout_of(const ProcessGrid& grid) { return {grid.world().size(), grid.expert_parallel().size()}; }

// The part of a tensor that a piece names. The plan and the memory must agree on who has what.
std::span<const std::byte> value_of(const ShardedTensor& tensor, Range rows) {
  const Range held = tensor.held_rows();
  CONCLAVE_CHECK(held == rows && tensor.local.shape() == shape_of_rows(tensor.global_shape, rows.size()),
                 "{}: rows [{}, {}) of {} are to be saved, in memory are rows [{}, {}) of shape {}",
                 tensor.name, rows.begin, rows.end, tensor.global_shape.text(), held.begin, held.end,
                 tensor.local.shape().text());
  return bytes_of(tensor.local);
}

}  // namespace

CheckpointSaver::CheckpointSaver(const ProcessGrid& grid, std::filesystem::path run_dir, std::int64_t keep,
                                 Mode mode, CopyOut copy_out)
    : grid_(grid), run_dir_(std::move(run_dir)), keep_(keep), mode_(mode), copy_out_(std::move(copy_out)) {}

CheckpointSaver::~CheckpointSaver() = default;  // a future of a thread waits for it

template <class Work>
auto CheckpointSaver::start(Work work) {
  try {
    if (mode_ == Mode::kBackground) return std::async(std::launch::async, work);
  } catch (const std::system_error&) {
    // No thread to be had: this rank does it when it is asked for.
  }
  return std::async(std::launch::deferred, work);
}

void CheckpointSaver::begin(const TrainingProgress& progress, std::span<const ShardedTensor> tensors) {
  CONCLAVE_CHECK(!in_flight(), "the save of step {} has not ended, and step {} is to be saved",
                 progress_.step, progress.step);
  progress_ = progress;
  result_ = {};
  result_.path = checkpoint_path(run_dir_, progress.step);
  refusal_ = first_failure(grid_.world(), failure_of([&] {
                             if (!leads()) return;
                             create_directories_durably(checkpoints_directory(run_dir_));
                             clean_up(run_dir_);
                             make_unfinished(result_.path);
                           }));
  if (!refusal_.empty()) {
    stage_ = Stage::kRefused;
    return;
  }
  tensors_ = global_tensors(tensors);
  pieces_ = pieces_of_this_rank(tensors);
  std::vector<std::span<const std::byte>> values;
  const std::string failure = failure_of([&] { values = staged(tensors); });
  writing_ = start([this, failure, values = std::move(values)] {
    return failure.empty() ? write(values) : Written{{}, failure};
  });
  stage_ = Stage::kWriting;
}

// What the plan says, but for tensors whose rows have one owner each: those are written where they are.
std::vector<ShardPiece> CheckpointSaver::pieces_of_this_rank(std::span<const ShardedTensor> tensors) const {
  std::vector<ShardPiece> pieces =
      std::move(plan_shards(tensors_, layout_of(grid_))[static_cast<std::size_t>(grid_.world().rank())]);
  std::erase_if(pieces, [&](const ShardPiece& piece) { return tensors[piece.tensor].sole_owner; });
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].sole_owner && tensors[i].local_rows.size() > 0)
      pieces.push_back({i, tensors[i].local_rows});
  }
  std::ranges::sort(pieces, std::less{}, &ShardPiece::tensor);
  return pieces;
}

// The values of this rank's pieces: copies where training goes on meanwhile.
std::vector<std::span<const std::byte>> CheckpointSaver::staged(std::span<const ShardedTensor> tensors) {
  std::vector<std::span<const std::byte>> values;
  std::size_t bytes = 0;
  for (const ShardPiece& piece : pieces_) {
    values.push_back(value_of(tensors[piece.tensor], piece.rows));
    bytes += values.back().size();
  }
  if (mode_ == Mode::kBlocking) return values;
  staging_.resize(bytes);
  std::byte* next = staging_.data();
  for (std::span<const std::byte>& value : values) {
    if (copy_out_) {
      copy_out_(next, value.data(), value.size());
    } else {
      std::memcpy(next, value.data(), value.size());
    }
    value = {next, value.size()};
    next += value.size();
  }
  return values;
}

CheckpointSaver::Written CheckpointSaver::write(const std::vector<std::span<const std::byte>>& values) const {
  Written written;
  written.failure = failure_of([&] {
    written.pieces = write_shard(unfinished_path(result_.path), progress_.step, grid_.world().rank(),
                                 tensors_, pieces_, [&](const ShardPiece& piece, const ByteSink& sink) {
                                   sink(values[static_cast<std::size_t>(&piece - pieces_.data())]);
                                 });
  });
  return written;
}

std::optional<SaveResult> CheckpointSaver::poll() {
  if (stage_ == Stage::kRefused) return end_refused();
  if (stage_ == Stage::kWriting && ready_everywhere(is_ready(writing_))) start_commit(writing_.get());
  if (stage_ == Stage::kRefused) return end_refused();
  if (stage_ == Stage::kCommitting && ready_everywhere(!leads() || is_ready(committing_)))
    return end_commit();
  return std::nullopt;
}

std::optional<SaveResult> CheckpointSaver::finish() {
  if (stage_ == Stage::kWriting) start_commit(writing_.get());
  if (stage_ == Stage::kRefused) return end_refused();
  if (stage_ == Stage::kCommitting) return end_commit();
  return std::nullopt;
}

// Collective, after this rank's part was written or has failed.
void CheckpointSaver::start_commit(const Written& written) {
  refusal_ = first_failure(grid_.world(), written.failure);
  if (!refusal_.empty()) {
    stage_ = Stage::kRefused;
    return;
  }
  const std::vector<std::string> pieces = gather_on_rank_0(grid_.world(), written.pieces.SerializeAsString());
  std::int64_t bytes = written.pieces.file().bytes();
  grid_.world().all_reduce(BufferView{&bytes, 1, DType::kInt64, {}}).wait();
  result_.bytes = bytes;
  stage_ = Stage::kCommitting;
  if (!leads()) return;
  committing_ = start([this, pieces] {
    Committed committed;
    committed.failure = failure_of([&] { commit(result_.path, manifest_of(pieces)); });
    if (committed.failure.empty())
      committed.warning = failure_of([&] { remove_old(run_dir_, progress_.step, keep_); });
    return committed;
  });
}

checkpoint::Manifest CheckpointSaver::manifest_of(const std::vector<std::string>& pieces) const {
  std::vector<checkpoint::RankPieces> of_ranks(pieces.size());
  for (std::size_t rank = 0; rank < pieces.size(); ++rank) {
    CONCLAVE_CHECK(of_ranks[rank].ParseFromString(pieces[rank]),
                   "the table of tensors of rank {} arrived damaged", rank);
  }
  return assemble_manifest(progress_, layout_of(grid_), tensors_, of_ranks);
}

SaveResult CheckpointSaver::end_commit() {
  const Committed committed = leads() ? committing_.get() : Committed{};
  refusal_ = first_failure(grid_.world(), committed.failure);
  if (!refusal_.empty()) return end_refused();
  stage_ = Stage::kIdle;
  result_.saved = true;
  result_.message = first_failure(grid_.world(), committed.warning);
  return std::move(result_);
}

// Nothing of the save stays behind.
SaveResult CheckpointSaver::end_refused() {
  stage_ = Stage::kIdle;
  std::error_code best_effort;  // the disk may be full or gone; the next save cleans up
  if (leads()) std::filesystem::remove_all(unfinished_path(result_.path), best_effort);
  result_.message = refusal_;
  return std::move(result_);
}

bool CheckpointSaver::ready_everywhere(bool ready) const {
  std::int64_t flag = ready ? 1 : 0;
  grid_.world().all_reduce(BufferView{&flag, 1, DType::kInt64, {}}, ReduceOp::kMin).wait();
  return flag == 1;
}

SaveResult save_checkpoint(const ProcessGrid& grid, const std::filesystem::path& run_dir,
                           const TrainingProgress& progress, std::span<const ShardedTensor> tensors,
                           std::int64_t keep) {
  CheckpointSaver saver(grid, run_dir, keep, CheckpointSaver::Mode::kBlocking);
  saver.begin(progress, tensors);
  return *saver.finish();
}

}  // namespace conclave
