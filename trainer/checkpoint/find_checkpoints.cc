#include <algorithm>
#include <charconv>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/manifest.h"

namespace conclave {
namespace {

constexpr std::string_view kPrefix = "step_";

// Checkpoints directly below `directory`, newest first.
std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& directory) {
  std::vector<std::pair<std::int64_t, std::filesystem::path>> found;
  std::error_code none_there;
  for (const auto& entry : std::filesystem::directory_iterator(directory, none_there)) {
    const std::optional<std::int64_t> step = step_of(entry.path());
    if (step && std::filesystem::exists(entry.path() / kManifestName))
      found.emplace_back(*step, entry.path());
  }
  std::ranges::sort(found, std::greater{});
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

}  // namespace

std::filesystem::path checkpoints_directory(const std::filesystem::path& run_dir) {
  return run_dir / "checkpoints";
}

std::filesystem::path checkpoint_path(const std::filesystem::path& run_dir, std::int64_t step) {
  return checkpoints_directory(run_dir) / fmt::format("{}{:06}", kPrefix, step);
}

std::optional<std::int64_t> step_of(const std::filesystem::path& checkpoint) {
  const std::string name = checkpoint.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [parsed, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc{} || parsed != end || step < 0) return std::nullopt;
  return step;
}

std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& run_dir) {
  return checkpoints_in(checkpoints_directory(run_dir));
}

std::optional<std::filesystem::path> find_newest_checkpoint(const std::filesystem::path& run_dir) {
  for (const std::filesystem::path& candidate : find_checkpoints(run_dir)) {
    try {
      read_manifest(candidate);
      return candidate;
    } catch (const Error&) {
      continue;  // the question is which one is readable; resume_newest is the one that reports
    }
  }
  return std::nullopt;
}

std::filesystem::path resolve_checkpoint(const std::filesystem::path& path) {
  if (std::filesystem::exists(path / kManifestName)) return path;
  if (const auto newest = find_newest_checkpoint(path)) return *newest;
  const std::vector<std::filesystem::path> below = checkpoints_in(path);
  CONCLAVE_CHECK(
      !below.empty(),
      "{}: no checkpoint there; give a run directory, its checkpoints directory or a step_<number> in it",
      path.string());
  return below.front();
}

}  // namespace conclave
