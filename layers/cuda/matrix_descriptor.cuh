// How products by warpgroups (wgmma.cuh) are told where their factors lie in shared memory. Named sections
// are those of the PTX ISA, version 9.0.
#pragma once

#include <cstdint>

#include "layers/cuda/mma.cuh"

namespace conclave::cuda {

// Where a factor lies in shared memory, swizzled by 128 bytes ("Matrix Descriptor Format", 9.7.15.5.1.2.2,
// and "Strides", 9.7.15.5.1.2.1): rows of 128 bytes, whose 16-byte chunk c stands at place c ^ (row % 8),
// counted from a multiple of 1024 bytes.
//
//   along   rows of memory are rows of the left factor, or columns of the right one; their elements those of
//   the
//           inner extent. `stride_bytes` from one eight of rows to the next; `leading_bytes` isn't used.
//   across  a row of memory holds 64 neighbours of one inner element. `stride_bytes` from eight inner
//   elements to
//           the next eight, `leading_bytes` from 64 neighbours to the next 64.
//
// `first` is the first element. It may stand within such rows: along, after whole chunks of an inner extent
// that is a multiple of 16; across, after rows of memory in eights.
__device__ inline std::uint64_t matrix_descriptor(const void* first, unsigned leading_bytes,
                                                  unsigned stride_bytes) {
  constexpr std::uint64_t kSwizzledBy128Bytes = std::uint64_t{1} << 62;
  const auto field = [](unsigned bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffffU) >> 4); };
  return field(shared_address(first)) | field(leading_bytes) << 16 | field(stride_bytes) << 32 |
         kSwizzledBy128Bytes;
}

}  // namespace conclave::cuda
