// Tests of ranks that each compute on a GPU.
#pragma once

#include <fmt/format.h>

#include <string>

#include "comm/cuda/runtime.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {

// Why a test is skipped: "" where each rank of the world has a GPU.
inline std::string missing_gpus() {
  const auto gpus = static_cast<int>(cuda::gpus().size());
  return gpus >= world().size() ? "" : fmt::format("{} GPUs here for {} ranks", gpus, world().size());
}

}  // namespace conclave::test
