#include "comm/cuda/system.h"

#include "comm/cuda/check.cuh"

namespace conclave::cuda {

System system() {
  System system;
  check(cudaRuntimeGetVersion(&system.runtime_version), "asking the runtime for its version");
  check(cudaDriverGetVersion(&system.driver_version), "asking the driver for its version");
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) system.problem = cudaGetErrorString(status);
  return system;
}

bool can_access_peer(int from, int to) {
  int can = 0;
  check(cudaDeviceCanAccessPeer(&can, from, to), "asking whether GPUs see each other");
  return can != 0;
}

}  // namespace conclave::cuda
