// The shared memory that a launch gave its blocks, uninitialised.
#pragma once

namespace conclave::cuda {

__device__ inline float* shared_memory() {
  extern __shared__ float conclave_shared_memory[];
  return conclave_shared_memory;
}

}  // namespace conclave::cuda
