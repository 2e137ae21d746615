// Names of checkpoints on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace conclave {

std::filesystem::path checkpoints_directory(const std::filesystem::path& run_dir);
// <run_dir>/checkpoints/step_000500.
std::filesystem::path checkpoint_path(const std::filesystem::path& run_dir, std::int64_t step);
// 500 for ".../step_000500"; nothing for any other name, unfinished ones (".tmp") included.
std::optional<std::int64_t> step_of(const std::filesystem::path& checkpoint);

}  // namespace conclave
