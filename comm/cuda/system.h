// What CUDA says of this machine beside its GPUs (comm/cuda/runtime.h): for `conclave doctor`.
#pragma once

#include <string>

namespace conclave::cuda {

struct System {
  int runtime_version = 0;  // 13000: CUDA 13.0; 0 in a build without CUDA
  int driver_version = 0;   // the newest CUDA that the driver can do; 0 without a driver
  std::string problem;  // in CUDA's words why there are no GPUs; "" if there are, or in a build without CUDA
};
System system();

// GPU `from` can read and write the memory of GPU `to` without the host.
bool can_access_peer(int from, int to);

}  // namespace conclave::cuda
