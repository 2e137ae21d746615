#include <charconv>
#include <functional>
#include <map>
#include <utility>

#include "comm/base/error.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_paths.h"
#include "trainer/checkpoint/manifest.h"

namespace conclave {
namespace {

constexpr std::string_view kPrefix = "step_";
constexpr std::string_view kUnfinished = ".tmp";
constexpr std::string_view kReplaced = ".replaced";

}  // namespace

std::filesystem::path checkpoints_directory(const std::filesystem::path& run_dir) {
  return run_dir / "checkpoints";
}

std::filesystem::path checkpoint_path(const std::filesystem::path& run_dir, std::int64_t step) {
  return checkpoints_directory(run_dir) / fmt::format("{}{:06}", kPrefix, step);
}

std::filesystem::path unfinished_path(const std::filesystem::path& checkpoint) {
  return checkpoint.string() + std::string(kUnfinished);
}

std::filesystem::path replaced_path(const std::filesystem::path& checkpoint) {
  return checkpoint.string() + std::string(kReplaced);
}

std::optional<std::int64_t> step_of(const std::filesystem::path& checkpoint) {
  const std::string name = (is_replaced(checkpoint) ? checkpoint.stem() : checkpoint.filename()).string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [parsed, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc{} || parsed != end || step < 0) return std::nullopt;
  return step;
}

bool is_unfinished(const std::filesystem::path& path) {
  return path.extension() == kUnfinished && step_of(path.stem());
}

bool is_replaced(const std::filesystem::path& path) { return path.extension() == kReplaced; }

std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& run_dir) {
  return find_checkpoints_in(checkpoints_directory(run_dir));
}

std::vector<std::filesystem::path> find_checkpoints_in(const std::filesystem::path& directory) {
  std::map<std::int64_t, std::filesystem::path, std::greater<>> found;
  std::error_code none_there;
  for (const auto& entry : std::filesystem::directory_iterator(directory, none_there)) {
    const std::optional<std::int64_t> step = step_of(entry.path());
    std::error_code not_readable;
    if (!step || !std::filesystem::exists(entry.path() / kManifestName, not_readable)) continue;
    if (!is_replaced(entry.path()) || !found.contains(*step)) found[*step] = entry.path();
  }
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
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
  const std::vector<std::filesystem::path> below = find_checkpoints_in(path);
  CONCLAVE_CHECK(
      !below.empty(),
      "{}: no checkpoint there; give a run directory, its checkpoints directory or a step_<number> in it",
      path.string());
  return below.front();
}

}  // namespace conclave
