#include "comm/cuda/memory.h"

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>

#include "comm/cuda/check.cuh"
#include "comm/cuda/runtime.h"

namespace conclave::cuda {
namespace {

cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

// CUDA grants managed memory beyond what the GPU has, and then moves pages to and fro: a hundred times
// slower, without a word. So what this process takes is counted, against what was free when it took its
// first.
struct Ledger {
  std::mutex mutex;
  std::map<const void*, std::size_t> bytes;
  std::size_t taken = 0;
  std::size_t capacity = 0;
};
Ledger& ledger() {
  static Ledger& only = *new Ledger;  // what lives to the end of the process is given back later than that
  return only;
}

// CUDA waits for the work that uses the memory: for ever, if that waits for a rank that is lost. While an
// exception ends this rank, its memory is left to the end of the process.
void release(void* memory) {
  if (std::uncaught_exceptions() > 0) return;
  {
    const std::lock_guard lock(ledger().mutex);
    if (const auto found = ledger().bytes.find(memory); found != ledger().bytes.end()) {
      ledger().taken -= found->second;
      ledger().bytes.erase(found);
    }
  }
  static_cast<void>(cudaFree(memory));
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
  const std::lock_guard lock(ledger().mutex);
  if (ledger().capacity == 0) {
    std::size_t total = 0;
    check(cudaMemGetInfo(&ledger().capacity, &total), "asking a GPU for its free memory");
  }
  CONCLAVE_CHECK(bytes <= ledger().capacity - std::min(ledger().taken, ledger().capacity),
                 "GPU {} is out of memory: {} bytes were asked for, {} of {} are taken; a smaller "
                 "train.micro_batch, train.recompute or more ranks need less",
                 device.index, bytes, ledger().taken, ledger().capacity);
  void* memory = nullptr;
  const cudaError_t status = cudaMallocManaged(&memory, std::max<std::size_t>(bytes, 1));
  CONCLAVE_CHECK(status == cudaSuccess, "GPU {} is out of memory: {} bytes were asked for: {} ({})",
                 device.index, bytes, cudaGetErrorString(status), cudaGetErrorName(status));
  ledger().bytes[memory] = bytes;
  ledger().taken += bytes;
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

void clear(Device device, void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  const Stream stream(device.index);
  fill_with_zeros(stream, memory, bytes);
  stream.synchronize();
}

void prefetch(const Stream& stream, const void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemPrefetchAsync(memory, bytes, location(stream.device()), 0, native(stream)), "a prefetch");
}

}  // namespace conclave::cuda
