#include <cstring>
#include <optional>
#include <set>
#include <sstream>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

using std::filesystem::path;

void check_same_tensor(const path& checkpoint, const checkpoint::Tensor& stored,
                       const ShardedTensor& wanted) {
  const GlobalTensor global = global_tensor(stored);
  CONCLAVE_CHECK_EQ(global.shape.text(), wanted.global_shape.text(),
                    checkpoint.string() + ": shape of " + wanted.name);
  CONCLAVE_CHECK_EQ(stored.dtype(), safetensors_dtype(wanted.local.dtype()),
                    checkpoint.string() + ": dtype of " + wanted.name);
}

// Fills the rows that this rank holds from the slices that have them.
void read_tensor(CheckpointReader& reader, const ShardedTensor& wanted) {
  const checkpoint::Tensor* stored = reader.find(wanted.name);
  CONCLAVE_CHECK(stored != nullptr, "{}: there is no tensor {}", reader.path().string(), wanted.name);
  check_same_tensor(reader.path(), *stored, wanted);

  const bool whole = wanted.sharding == Sharding::kReplicated;
  const Range rows = whole ? Range{0, row_count(wanted.global_shape)} : wanted.local_rows;
  CONCLAVE_CHECK(wanted.local.shape() == shape_of_rows(wanted.global_shape, rows.size()),
                 "{}: shape {} of the part in memory, expected {} rows of {}", wanted.name,
                 wanted.local.shape().text(), rows.size(), wanted.global_shape.text());
  if (bytes_of(wanted.local).empty()) return;
  auto* next = static_cast<std::byte*>(wanted.local.raw());
  reader.rows(*stored, rows, [&](Range, std::span<const std::byte> bytes) {
    std::memcpy(next, bytes.data(), bytes.size());
    next += bytes.size();
  });
}

void check_nothing_is_left_over(const CheckpointReader& reader, std::span<const ShardedTensor> tensors) {
  std::set<std::string_view> wanted;
  for (const ShardedTensor& tensor : tensors) wanted.insert(tensor.name);
  for (const checkpoint::Tensor& stored : reader.manifest().tensors()) {
    CONCLAVE_CHECK(wanted.contains(stored.name()),
                   "{}: this run has no tensor {}: it is another model's checkpoint", reader.path().string(),
                   stored.name());
  }
}

// Reading everything, the ranks together check every byte: each the tensors that it needs, and its share of
// the files, since a file may hold nothing that anyone needs.
void read_tensors(CheckpointReader& reader, Communicator& world, std::span<const ShardedTensor> tensors,
                  LoadScope scope) {
  if (scope == LoadScope::kEverything) {
    check_nothing_is_left_over(reader, tensors);
    for (int file = world.rank(); file < reader.manifest().files_size(); file += world.size()) {
      reader.file(reader.manifest().files(file).name());
    }
  }
  for (const ShardedTensor& tensor : tensors) read_tensor(reader, tensor);
}

// Runs `action`; if it fails on any rank, the first failure, else "".
template <class Action>
std::string agreed_failure(Communicator& world, Action&& action) {
  std::string own;
  try {
    action();
  } catch (const std::exception& error) {
    own = error.what();
  }
  return first_failure(world, own);
}

std::string listed(const std::vector<std::string>& messages) {
  std::string text;
  for (const std::string& message : messages) text += "\n  " + message;
  return text;
}

// The candidates as rank 0 sees them: a network file system may show each rank something else.
std::vector<path> agreed_candidates(Communicator& world, const path& run_dir) {
  std::string lines;
  if (world.rank() == 0) {
    for (const path& candidate : find_checkpoints(run_dir)) lines += candidate.string() + "\n";
  }
  std::istringstream stream(broadcast_text(world, lines, 0));
  std::vector<path> candidates;
  for (std::string line; std::getline(stream, line);) candidates.emplace_back(line);
  return candidates;
}

}  // namespace

TrainingProgress read_progress(const path& checkpoint) { return progress_of(read_manifest(checkpoint)); }

TrainingProgress load_checkpoint(Communicator& world, const path& checkpoint,
                                 std::span<const ShardedTensor> tensors, LoadScope scope) {
  TrainingProgress progress;
  const std::string failure = agreed_failure(world, [&] {
    CheckpointReader reader(checkpoint);
    read_tensors(reader, world, tensors, scope);
    progress = progress_of(reader.manifest());
  });
  if (!failure.empty()) throw SharedError(failure);
  return progress;
}

ResumeResult resume_newest(Communicator& world, const path& run_dir, std::span<const ShardedTensor> tensors,
                           const std::function<void(const TrainingProgress&)>& accept) {
  ResumeResult result;
  for (const path& candidate : agreed_candidates(world, run_dir)) {
    std::optional<CheckpointReader> reader;
    std::string failure = agreed_failure(world, [&] { reader.emplace(candidate); });
    if (failure.empty()) {
      accept(progress_of(reader->manifest()));
      failure = agreed_failure(world, [&] { read_tensors(*reader, world, tensors, LoadScope::kEverything); });
    }
    if (failure.empty()) {
      result.progress = progress_of(reader->manifest());
      result.path = candidate;
      return result;
    }
    result.rejected.push_back(failure);
  }
  if (!result.rejected.empty()) {
    throw SharedError(fmt::format("no checkpoint of {} can be loaded; mend or remove them to start anew:{}",
                                  run_dir.string(), listed(result.rejected)));
  }
  return result;
}

}  // namespace conclave
