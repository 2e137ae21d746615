// Named stretches of time for a profiler: Nsight Systems draws them above the kernels that were enqueued
// within.
#pragma once

#include <cstdint>

namespace conclave::cuda {

// On the calling thread, within the ranges that are open there. `name` is a literal; `index` tells ranges of
// one name apart, -1 where there is one. Costs some nanoseconds without a profiler, and nothing in a build
// without CUDA.
void begin_range(const char* name, std::int64_t index);
// The one that began last.
void end_range();

}  // namespace conclave::cuda
