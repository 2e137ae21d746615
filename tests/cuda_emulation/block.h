// The threads of one block, as fibers: each runs until it waits for others, which then run.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "tests/cuda_emulation/cuda_runtime.h"

namespace emulation {

inline constexpr std::size_t kMaxSharedBytes = std::size_t{227} << 10;  // as an H100 grants

// Runs `thread` once for every thread of every block of the grid; returns what went wrong, or nothing.
std::string run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& thread);

}  // namespace emulation
