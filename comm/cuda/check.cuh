// The check of every call of the CUDA runtime. Needs its headers: for files of the backend only.
#pragma once

#include <cuda_runtime.h>

#include "comm/base/error.h"

namespace conclave::cuda {

// Throws Error naming the call and CUDA's words unless `status` is success.
inline void check(cudaError_t status, const char* what) {
  CONCLAVE_CHECK(status == cudaSuccess, "CUDA: {} failed: {} ({})", what, cudaGetErrorString(status),
                 cudaGetErrorName(status));
}

}  // namespace conclave::cuda
