#include "comm/cuda/memory.h"

#include <algorithm>
#include <exception>

#include "comm/cuda/check.cuh"
#include "comm/cuda/runtime.h"

namespace conclave::cuda {
namespace {

cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

// CUDA waits for the work that uses the memory: for ever, if that waits for a rank that is lost. While an
// exception ends this rank, its memory is left to the end of the process.
void release(void* memory) {
  if (std::uncaught_exceptions() == 0) static_cast<void>(cudaFree(memory));
}

void release_pinned(void* memory) {
  if (std::uncaught_exceptions() == 0) static_cast<void>(cudaFreeHost(memory));
}

cudaMemLocation location(Device device) {
  cudaMemLocation place{};
  place.type = cudaMemLocationTypeDevice;
  place.id = device.index;
  return place;
}

}  // namespace

Memory allocate(Device device, std::size_t bytes) {
  select(device.index);
  void* memory = nullptr;
  const cudaError_t status = cudaMallocManaged(&memory, std::max<std::size_t>(bytes, 1));
  CONCLAVE_CHECK(status == cudaSuccess, "GPU {} is out of memory: {} bytes were asked for: {} ({})",
                 device.index, bytes, cudaGetErrorString(status), cudaGetErrorName(status));
  return {static_cast<std::byte*>(memory), release};
}

Memory allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMallocHost(&memory, std::max<std::size_t>(bytes, 1));
  CONCLAVE_CHECK(status == cudaSuccess, "{} bytes of pinned host memory can't be had: {} ({})", bytes,
                 cudaGetErrorString(status), cudaGetErrorName(status));
  return {static_cast<std::byte*>(memory), release_pinned};
}

void copy(const Stream& stream, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native(stream)), "a copy");
}

void fill_with_zeros(const Stream& stream, void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(memory, 0, bytes, native(stream)), "filling with zeros");
}

void prefetch(const Stream& stream, const void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemPrefetchAsync(memory, bytes, location(stream.device()), 0, native(stream)), "a prefetch");
}

}  // namespace conclave::cuda
