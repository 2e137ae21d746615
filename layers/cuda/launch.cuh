// How kernels are launched: the one call that both nvcc and the emulation of the tests understand.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>
#include "comm/cuda/stream.h"
#include "layers/cuda/launch_check.h"

namespace conclave::cuda {

// Beyond this a kernel has to ask for shared memory.
inline constexpr std::size_t kSharedBytesOfEveryone = std::size_t{48} << 10;

// Arguments are converted to the kernel's parameters. Throws Error naming `name` if the launch is refused;
// what fails later, the next synchronize reports.
template <class... Parameters, class... Arguments>
void launch(const char* name, StreamHandle stream, dim3 grid, dim3 block, std::size_t shared_bytes,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (shared_bytes > kSharedBytesOfEveryone) {
    const cudaError_t granted =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (granted != cudaSuccess) refuse_launch(name, cudaGetErrorString(granted));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (status != cudaSuccess) refuse_launch(name, cudaGetErrorString(status));
}

// Threads for `items`, one each, in blocks of kThreads.
inline constexpr unsigned kThreads = 256;
inline dim3 blocks_for(std::int64_t items) {
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads));
}

}  // namespace conclave::cuda
