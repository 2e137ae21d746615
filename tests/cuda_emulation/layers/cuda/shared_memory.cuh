// In place of the tree's own: C++ has no arrays of a size that a launch decides.
#pragma once

#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {

inline float* shared_memory() { return static_cast<float*>(emulation::dynamic_shared_memory()); }

}  // namespace conclave::cuda
