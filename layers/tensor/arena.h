// Memory for tensors: an Arena for what lives one micro-batch, a Buffer for what lives as long as the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "layers/tensor/tensor_view.h"

namespace conclave {

// Owned, aligned to 64 bytes, on a GPU to 256, zero-initialised memory (weights, gradients, optimizer state,
// caches). A GPU's is memory that the host may touch too (comm/cuda/memory.h).
class Buffer {
 public:
  Buffer() = default;
  Buffer(Shape shape, DType dtype, Device device = {});

  // Of the host, where what comes from a GPU arrives without being waited for.
  static Buffer pinned(Shape shape, DType dtype);

  TensorView view() const { return view_; }

 private:
  std::unique_ptr<std::byte, void (*)(void*)> memory_{nullptr, nullptr};
  TensorView view_;
};

// A stack of activations. allocate() hands out uninitialised memory until reset(); after the first step the
// arena is one block that is large enough, and nothing is taken from the system any more.
class Arena {
 public:
  explicit Arena(Device device = {}) : device_(device) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised, aligned as a Buffer; valid until reset() or until a Mark taken before is released.
  TensorView allocate(Shape shape, DType dtype = DType::kFloat32);

  // Forgets every allocation. If the last round needed several blocks they are replaced by
  // one that holds all.
  void reset();

  std::size_t used_bytes() const;
  // The largest used_bytes() so far.
  std::size_t peak_bytes() const { return peak_bytes_; }
  // Number of times that memory was taken from the system; constant in steady state.
  std::int64_t system_allocations() const { return system_allocations_; }

  // How far the arena is filled. The same allocations from the same position get the same addresses.
  struct Position {
    std::size_t block = 0;
    std::size_t used = 0;
    std::int64_t system_allocations = 0;

    friend bool operator==(const Position&, const Position&) = default;
  };
  Position position() const;
  // Allocates what was allocated between a position like this one and `later`, of the same block.
  void skip_to(const Position& later);

  // Scratch memory: everything allocated after a Mark is given back when the Mark goes out of scope.
  class Mark {
   public:
    explicit Mark(Arena& arena);
    ~Mark();
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    Arena& arena_;
    std::size_t block_;
    std::size_t used_;
  };

 private:
  struct Block {
    std::unique_ptr<std::byte, void (*)(void*)> memory{nullptr, nullptr};
    std::size_t capacity = 0;
    std::size_t used = 0;
  };
  void add_block(std::size_t capacity);

  Device device_;
  std::vector<Block> blocks_;
  std::size_t current_ = 0;  // the block that allocate() takes from; those after it are empty
  std::size_t peak_bytes_ = 0;
  std::int64_t system_allocations_ = 0;
};

}  // namespace conclave
