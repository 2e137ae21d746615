// Where the buffers of a test of collectives lie, and the group of all ranks that moves them: the same test
// runs in the memory of the host and in that of GPUs. Only for tests/distributed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/runtime.h"
#include "comm/cuda/stream.h"
#include "comm/gpu/gpu_communicator.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {

// A place has these members; open() and close() are collective, and tests run between them. The tests of one
// that doesn't exist are skipped.
class HostMemory {
 public:
  static constexpr const char* kName = "host";
  static bool exists() { return true; }
  static void open() {}
  static void close() {}
  static Communicator& world() { return test::world(); }
  static Device device() { return {}; }
  static cuda::Memory allocate(std::size_t bytes) {
    return {new std::byte[bytes], [](void* memory) { delete[] static_cast<std::byte*>(memory); }};
  }
  // Afterwards the host may read what operations have brought.
  static void finish() {}
};

// GPU 0 for all ranks, or for each its own.
template <bool kEachItsOwn>
class GpuMemory {
 public:
  static constexpr const char* kName = kEachItsOwn ? "gpus" : "shared_gpu";
  static bool exists() {
    return static_cast<int>(cuda::gpus().size()) > (kEachItsOwn ? test::world().size() - 1 : 0);
  }
  static void open() {
    Communicator& all = test::world();
    stream_.emplace(kEachItsOwn ? all.rank() : 0);
    world_ = make_gpu_communicator(all.split(0, all.rank(), "world"), *stream_);
  }
  static void close() {
    world_.reset();
    stream_.reset();
  }
  static Communicator& world() { return *world_; }
  static cuda::Stream& stream() { return *stream_; }
  static Device device() { return stream_->device(); }
  static cuda::Memory allocate(std::size_t bytes) { return cuda::allocate(device(), bytes); }
  static void finish() { stream_->synchronize(); }

 private:
  inline static std::optional<cuda::Stream> stream_;
  inline static std::unique_ptr<Communicator> world_;
};
using OwnGpu = GpuMemory<true>;
using SharedGpu = GpuMemory<false>;

// Elements in the memory of a place.
template <class T, class Place>
class Elements {
 public:
  explicit Elements(std::int64_t count)
      : memory_(Place::allocate(static_cast<std::size_t>(count) * sizeof(T))), count_(count) {
    std::fill_n(data(), count, T());
  }
  explicit Elements(const std::vector<T>& values) : Elements(static_cast<std::int64_t>(values.size())) {
    std::ranges::copy(values, data());
  }

  std::int64_t count() const { return count_; }
  BufferView view() { return part(0, count_); }
  BufferView part(std::int64_t begin, std::int64_t count) {
    return {data() + begin, count, dtype_of<T>, Place::device()};
  }
  // After all operations that were waited for.
  std::vector<T> values() {
    Place::finish();
    return {data(), data() + count_};
  }

 private:
  T* data() { return reinterpret_cast<T*>(memory_.get()); }

  cuda::Memory memory_;
  std::int64_t count_;
};

}  // namespace conclave::test
