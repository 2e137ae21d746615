// How kernels are launched: the one call that both nvcc and the emulation of the tests understand.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>
#include "comm/cuda/stream.h"
#include "layers/cuda/launch_check.h"

namespace conclave::cuda {

// Beyond this a kernel has to ask for shared memory.
inline constexpr std::size_t kSharedBytesOfEveryone = std::size_t{48} << 10;

inline void check_launch(const char* name, cudaError_t status) {
  if (status != cudaSuccess) refuse_launch(name, cudaGetErrorString(status));
}

template <class... Parameters>
void grant_shared_memory(const char* name, void (*kernel)(Parameters...), std::size_t bytes) {
  if (bytes <= kSharedBytesOfEveryone) return;
  check_launch(name,
               cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

// The most that a kernel may ask for, on the GPU in use.
inline std::size_t most_shared_bytes(const char* name) {
  int device = 0;
  int bytes = 0;
  check_launch(name, cudaGetDevice(&device));
  check_launch(name, cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<std::size_t>(bytes);
}

// Arguments are converted to the kernel's parameters. Throws Error naming `name` if the launch is refused;
// what fails later, the next synchronize reports.
template <class... Parameters, class... Arguments>
void launch(const char* name, StreamHandle stream, dim3 grid, dim3 block, std::size_t shared_bytes,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  grant_shared_memory(name, kernel, shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  check_launch(name, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// For kernels whose blocks stay and walk over their work, block b from item b on in steps of gridDim.x: as
// many blocks as the GPU holds at once, at most one an item. Without items nothing is launched.
template <class... Parameters, class... Arguments>
void launch_resident(const char* name, StreamHandle stream, std::int64_t items, unsigned threads,
                     std::size_t shared_bytes, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (items == 0) return;
  grant_shared_memory(name, kernel, shared_bytes);
  int device = 0;
  int multiprocessors = 0;
  int blocks_of_one = 0;
  check_launch(name, cudaGetDevice(&device));
  check_launch(name, cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check_launch(name, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_of_one, kernel,
                                                                   static_cast<int>(threads), shared_bytes));
  const std::int64_t resident = std::max(std::int64_t{multiprocessors} * blocks_of_one, std::int64_t{1});
  launch(name, stream, dim3(static_cast<unsigned>(std::min(items, resident))), dim3(threads), shared_bytes,
         kernel, arguments...);
}

// Threads for `items`, one each, in blocks of kThreads.
inline constexpr unsigned kThreads = 256;
inline dim3 blocks_for(std::int64_t items) {
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads));
}

}  // namespace conclave::cuda
