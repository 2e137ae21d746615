// The shared memory that a launch gave its blocks, uninitialised, aligned to 1024 bytes.
#pragma once

namespace conclave::cuda {

__device__ inline float* shared_memory() {
  extern __shared__ __align__(1024) float conclave_shared_memory[];
  return conclave_shared_memory;
}

}  // namespace conclave::cuda
