// Is a checkpoint whole? And which of a run's checkpoints may go?
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace conclave {

struct Verification {
  std::filesystem::path path;
  std::int64_t bytes = 0;           // of the files that were found whole, manifest included
  std::vector<std::string> faults;  // everything that is wrong; empty: every byte is as it was written
  std::vector<std::string> notes;   // files that are not part of it

  bool good() const { return faults.empty(); }
};

// Reads every byte and goes on after a fault. Throws nothing for a damaged checkpoint.
Verification verify_checkpoint(const std::filesystem::path& checkpoint);

struct Pruning {
  enum class Verdict : std::uint8_t { kKept, kRemoved, kDamagedKept };
  struct Entry {
    Verification verification;
    Verdict verdict = Verdict::kKept;
  };
  std::vector<Entry> checkpoints;  // newest first
  std::int64_t good = 0;           // of them
};

// Keeps the `keep` (at least 1) newest checkpoints of a run that are good to the last byte and removes those
// that are older, good or not. Damaged ones that are newer than these stay: they may be mended. Where none is
// good, none is removed. A dry run only says what it would do.
Pruning prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep, bool dry_run);

}  // namespace conclave
