#include "trainer/checkpoint/verify_checkpoint.h"

#include <optional>
#include <set>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/commit.h"

namespace conclave {
namespace {

// Collects what `check` throws. False if it threw.
template <class Check>
bool attempt(std::vector<std::string>& faults, Check&& check) {
  try {
    check();
    return true;
  } catch (const std::exception& error) {
    faults.emplace_back(error.what());
    return false;
  }
}

// A damaged file is one fault, not one for each of its pieces.
void verify_files(CheckpointReader& reader, Verification& result) {
  std::set<std::string> unreadable;
  for (const checkpoint::File& file : reader.manifest().files()) {
    if (attempt(result.faults, [&] { reader.file(file.name()); })) {
      result.bytes += file.bytes();
    } else {
      unreadable.insert(file.name());
    }
  }
  for (const checkpoint::Tensor& tensor : reader.manifest().tensors()) {
    for (const checkpoint::Slice& slice : tensor.slices()) {
      if (!unreadable.contains(slice.file())) attempt(result.faults, [&] { reader.slice(tensor, slice); });
    }
  }
}

void note_strangers(const CheckpointReader& reader, Verification& result) {
  std::set<std::string> known{kManifestName};
  for (const checkpoint::File& file : reader.manifest().files()) known.insert(file.name());
  for (const auto& entry : std::filesystem::directory_iterator(reader.path())) {
    if (!known.contains(entry.path().filename().string())) {
      result.notes.push_back(fmt::format("{} is not part of the checkpoint", entry.path().string()));
    }
  }
}

}  // namespace

Verification verify_checkpoint(const std::filesystem::path& checkpoint) {
  Verification result;
  result.path = checkpoint;
  std::optional<CheckpointReader> reader;
  if (!attempt(result.faults, [&] { reader.emplace(checkpoint); })) return result;
  attempt(result.faults, [&] {
    result.bytes = static_cast<std::int64_t>(std::filesystem::file_size(checkpoint / kManifestName));
    verify_files(*reader, result);
    note_strangers(*reader, result);
  });
  return result;
}

Pruning prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep, bool dry_run) {
  CONCLAVE_CHECK(keep >= 1, "at least one checkpoint is kept, not {}", keep);
  Pruning pruning;
  for (const std::filesystem::path& checkpoint : find_checkpoints(run_dir)) {
    Pruning::Entry entry{verify_checkpoint(checkpoint), Pruning::Verdict::kKept};
    if (pruning.good >= keep) {
      entry.verdict = Pruning::Verdict::kRemoved;
    } else if (!entry.verification.good()) {
      entry.verdict = Pruning::Verdict::kDamagedKept;
    }
    if (entry.verification.good()) ++pruning.good;
    pruning.checkpoints.push_back(std::move(entry));
  }
  if (dry_run) return pruning;
  for (const Pruning::Entry& entry : pruning.checkpoints) {
    if (entry.verdict == Pruning::Verdict::kRemoved) remove_checkpoint(entry.verification.path);
  }
  return pruning;
}

}  // namespace conclave
