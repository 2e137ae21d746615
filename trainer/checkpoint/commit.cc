#include "trainer/checkpoint/commit.h"

#include <optional>
#include <vector>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

using std::filesystem::path;

bool is_complete(const path& checkpoint) {
  try {
    check_complete(checkpoint);
    return true;
  } catch (const std::exception&) {
    return false;  // resuming and `checkpoint verify` say why
  }
}

// Gives the finished directory its name. An old one of the same step is swapped with it in one operation
// where the file system can. Where it can't (NFS), the old one steps aside under a name by which it is still
// found, so that there is a complete one at every moment.
void put_in_place(const path& checkpoint) {
  const path finished = unfinished_path(checkpoint);
  const path replaced = replaced_path(checkpoint);
  if (!std::filesystem::exists(checkpoint)) {
    rename_path(finished, checkpoint);
  } else if (!exchange_paths(finished, checkpoint)) {
    rename_path(checkpoint, replaced);
    rename_path(finished, checkpoint);
  }
  sync_directory(checkpoint.parent_path());
}

}  // namespace

void make_unfinished(const path& checkpoint) {
  create_directories_durably(checkpoint.parent_path());
  const path unfinished = unfinished_path(checkpoint);
  CONCLAVE_CHECK(std::filesystem::create_directory(unfinished),
                 "{} is there: another program writes it, or did", unfinished.string());
}

void clean_up(const path& run_dir) {
  std::vector<path> unfinished;
  std::vector<path> replaced;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints_directory(run_dir))) {
    if (is_unfinished(entry.path())) unfinished.push_back(entry.path());
    if (is_replaced(entry.path()) && step_of(entry.path())) replaced.push_back(entry.path());
  }
  for (const path& leftover : unfinished) std::filesystem::remove_all(leftover);
  for (const path& old : replaced) {
    const path checkpoint = path(old).replace_extension();
    if (std::filesystem::exists(checkpoint / kManifestName)) {
      remove_checkpoint(old);
    } else {
      std::filesystem::remove_all(checkpoint);
      rename_path(old, checkpoint);
    }
  }
}

void commit(const path& checkpoint, const checkpoint::Manifest& manifest) {
  write_manifest(unfinished_path(checkpoint), manifest);
  sync_directory(unfinished_path(checkpoint));
  put_in_place(checkpoint);
}

void remove_checkpoint(const path& checkpoint) {
  const path unnamed =
      unfinished_path(is_replaced(checkpoint) ? path(checkpoint).replace_extension() : checkpoint);
  std::filesystem::remove_all(unnamed);
  rename_path(checkpoint, unnamed);
  std::filesystem::remove_all(unnamed);
}

void remove_old(const path& run_dir, std::int64_t newest_step, std::int64_t keep) {
  clean_up(run_dir);
  std::int64_t kept = 0;
  for (const path& candidate : find_checkpoints(run_dir)) {
    if (step_of(candidate) > newest_step) continue;
    if (kept >= keep) {
      remove_checkpoint(candidate);
    } else if (is_complete(candidate)) {
      ++kept;
    }
  }
}

}  // namespace conclave
