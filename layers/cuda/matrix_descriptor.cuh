// How products by warpgroups (wgmma.cuh) are told where their factors lie in shared memory. Named sections
// are those of the PTX ISA, version 9.0.
#pragma once

#include <cstdint>

#include "layers/cuda/mma.cuh"

namespace conclave::cuda {

// A factor in shared memory, swizzled by 128 bytes ("Matrix Descriptor Format", 9.7.15.5.1.2.2): memory in
// rows of 128 bytes, counted from a multiple of 1024 bytes, whose 16-byte chunk c stands at place c ^ (row %
// 8). `first` is where its first element would stand without swizzling.
//
// Where a row of memory lies along the inner extent (K-major), there is one for each row of the left factor
// or column of the right one, `stride_bytes` from eight of them to the next eight; `leading_bytes` isn't
// used. Where it lies across (MN-major), it holds one inner element of 64 neighbours: `stride_bytes` from
// eight inner elements to the next eight, `leading_bytes` from 64 neighbours to the next 64
// ("Strides", 9.7.15.5.1.2.1).
__device__ inline std::uint64_t matrix_descriptor(const void* first, unsigned leading_bytes,
                                                  unsigned stride_bytes) {
  constexpr std::uint64_t kSwizzledBy128Bytes = std::uint64_t{1} << 62;
  const auto field = [](unsigned bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffffU) >> 4); };
  return field(shared_address(first)) | field(leading_bytes) << 16 | field(stride_bytes) << 32 |
         kSwizzledBy128Bytes;
}

}  // namespace conclave::cuda
