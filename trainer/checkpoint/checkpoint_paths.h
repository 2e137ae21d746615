// Names of checkpoints on disk. Only a name decides what a directory is:
//
//   step_000500           complete
//   step_000500.replaced  complete; stands for step_000500 as long as there is none (see put_in_place,
//   commit.cc) step_000500.tmp       being written, or being removed: nobody reads it, the next save removes
//   it
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace conclave {

std::filesystem::path checkpoints_directory(const std::filesystem::path& run_dir);
// <run_dir>/checkpoints/step_000500.
std::filesystem::path checkpoint_path(const std::filesystem::path& run_dir, std::int64_t step);
// Where `checkpoint` is written until it is complete, and where it goes when another takes its place.
std::filesystem::path unfinished_path(const std::filesystem::path& checkpoint);
std::filesystem::path replaced_path(const std::filesystem::path& checkpoint);

// 500 for ".../step_000500" and ".../step_000500.replaced"; nothing for any other name, unfinished ones
// included.
std::optional<std::int64_t> step_of(const std::filesystem::path& checkpoint);
bool is_unfinished(const std::filesystem::path& path);
bool is_replaced(const std::filesystem::path& path);

}  // namespace conclave
