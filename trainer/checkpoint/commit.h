// What happens to a checkpoint's directory: at every moment, and after a crash at any moment, each checkpoint
// is there as a whole or not at all. One rank does all of it.
#pragma once

#include <cstdint>
#include <filesystem>

#include "trainer/checkpoint/manifest.pb.h"

namespace conclave {

// Makes the empty directory in which a checkpoint is written (unfinished_path), and those above it. Throws
// Error.
void make_unfinished(const std::filesystem::path& checkpoint);

// Removes what saves that did not finish have left among a run's checkpoints, and what commits have replaced.
void clean_up(const std::filesystem::path& run_dir);

// Completes it: the manifest last, all of it on the disk, then the name. An older checkpoint of that name
// steps aside and is removed by the next clean_up() or remove_old().
void commit(const std::filesystem::path& checkpoint, const checkpoint::Manifest& manifest);

// Removes a checkpoint; one that is half removed has no checkpoint's name.
void remove_checkpoint(const std::filesystem::path& checkpoint);

// After a commit: removes what it has replaced, and the checkpoints that are older than the `keep` newest
// complete ones. Incomplete ones count for nothing, so that at least one complete one stays. Steps later than
// `newest_step`, of a run that was taken up again from an older checkpoint, are neither counted nor removed:
// they may be damaged.
void remove_old(const std::filesystem::path& run_dir, std::int64_t newest_step, std::int64_t keep);

}  // namespace conclave
