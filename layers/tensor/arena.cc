#include "layers/tensor/arena.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "comm/cuda/memory.h"

namespace conclave {
namespace {

// One cache line, one AVX-512 register; on a GPU what allocations of CUDA's have, so that cuBLAS, which goes
// by alignment, takes the same way whatever lies before.
constexpr std::size_t alignment_of(Device device) { return device.kind == DeviceKind::kCuda ? 256 : 64; }
constexpr std::size_t kFirstBlockBytes = std::size_t{16} << 20;
constexpr std::size_t kLargestGrowthOnGpu = std::size_t{1} << 30;

std::size_t rounded_up(std::size_t bytes, Device device) {
  const std::size_t alignment = alignment_of(device);
  return (bytes + alignment - 1) / alignment * alignment;
}

std::unique_ptr<std::byte, void (*)(void*)> system_memory(std::size_t bytes, Device device) {
  if (device.kind == DeviceKind::kCuda) return cuda::allocate(device, rounded_up(bytes, device));
  const std::size_t alignment = alignment_of(device);
  void* memory = std::aligned_alloc(alignment, std::max(rounded_up(bytes, device), alignment));
  CONCLAVE_CHECK(memory != nullptr, "out of memory: {} bytes were asked for", bytes);
  return {static_cast<std::byte*>(memory), std::free};
}

}  // namespace

Buffer::Buffer(Shape shape, DType dtype, Device device) {
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  memory_ = system_memory(bytes, device);
  if (device.kind == DeviceKind::kCuda) {
    cuda::clear(device, memory_.get(), bytes);
  } else {
    std::memset(memory_.get(), 0, bytes);
  }
  view_ = TensorView(memory_.get(), shape, dtype, device);
}

Buffer Buffer::pinned(Shape shape, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  Buffer buffer;
  buffer.memory_ = cuda::allocate_pinned(bytes);
  std::memset(buffer.memory_.get(), 0, bytes);
  buffer.view_ = TensorView(buffer.memory_.get(), shape, dtype);
  return buffer;
}

TensorView Arena::allocate(Shape shape, DType dtype) {
  const std::size_t bytes = rounded_up(static_cast<std::size_t>(shape.elements()) * size_of(dtype), device_);
  while (current_ < blocks_.size() && blocks_[current_].used + bytes > blocks_[current_].capacity) ++current_;
  if (current_ == blocks_.size()) {
    std::size_t grown = blocks_.empty() ? kFirstBlockBytes : 2 * blocks_.back().capacity;
    // Twice what is needed may be more than a GPU has; until reset() there may be many blocks.
    if (device_.kind == DeviceKind::kCuda) grown = std::min(grown, kLargestGrowthOnGpu);
    add_block(std::max(bytes, grown));
  }
  Block& block = blocks_[current_];
  std::byte* data = block.memory.get() + block.used;
  block.used += bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes());
  return {data, shape, dtype, device_};
}

void Arena::reset() {
  if (blocks_.size() > 1) {
    blocks_.clear();
    add_block(peak_bytes_ + peak_bytes_ / 8);  // expert loads vary from step to step
  }
  for (Block& block : blocks_) block.used = 0;
  current_ = 0;
}

std::size_t Arena::used_bytes() const {
  std::size_t used = 0;
  for (const Block& block : blocks_) used += block.used;
  return used;
}

void Arena::add_block(std::size_t capacity) {
  blocks_.push_back({system_memory(capacity, device_), rounded_up(capacity, device_), 0});
  ++system_allocations_;
}

Arena::Position Arena::position() const {
  return {.block = current_,
          .used = current_ < blocks_.size() ? blocks_[current_].used : 0,
          .system_allocations = system_allocations_};
}

void Arena::skip_to(const Position& later) {
  CONCLAVE_CHECK(later.block == current_ && current_ < blocks_.size() &&
                     later.used >= blocks_[current_].used && later.system_allocations == system_allocations_,
                 "an arena that has changed since can't skip to where it was");
  blocks_[current_].used = later.used;
}

Arena::Mark::Mark(Arena& arena)
    : arena_(arena), block_(arena.position().block), used_(arena.position().used) {}

Arena::Mark::~Mark() {
  for (std::size_t later = block_ + 1; later < arena_.blocks_.size(); ++later) arena_.blocks_[later].used = 0;
  if (block_ < arena_.blocks_.size()) arena_.blocks_[block_].used = used_;
  arena_.current_ = block_;
}

}  // namespace conclave
