// Memory of a GPU that the host may touch too.
//
// CUDA's managed memory: one address for both, pages travel to whoever touches them. Kernels find theirs on
// the GPU, and whatever has no kernel reads and writes the same tensor on the host, after
// Stream::synchronize().
#pragma once

#include <cstddef>
#include <memory>

#include "comm/base/device.h"
#include "comm/cuda/stream.h"

namespace conclave::cuda {

using Memory = std::unique_ptr<std::byte, void (*)(void*)>;

// Uninitialised, 256-byte aligned. Throws Error naming the bytes if they can't be had.
Memory allocate(Device device, std::size_t bytes);

// Memory of the host that GPUs read and write without the host: copies from and to it don't hold it up.
// Uninitialised, page-aligned. Throws Error naming the bytes if it can't be had.
Memory allocate_pinned(std::size_t bytes);

// In the stream's order; where the addresses lie, host or GPU, CUDA knows. Host memory must stay as it is
// until the copy is done, unless it is pageable, in which case it is read at once, perhaps after a wait for
// the stream.
void copy(const Stream& stream, void* to, const void* from, std::size_t bytes);
void fill_with_zeros(const Stream& stream, void* memory, std::size_t bytes);

// The same, done when it returns, and on the GPU: pages that nobody has touched come into being there.
void clear(Device device, void* memory, std::size_t bytes);

// Moves the pages of managed memory to the stream's GPU before they are needed.
void prefetch(const Stream& stream, const void* memory, std::size_t bytes);

}  // namespace conclave::cuda
