// In place of the tree's own: what its instructions do, by the layouts that it and the PTX ISA state.
#pragma once

#include <cstdint>
#include <cstring>

#include "layers/cuda/matrix_descriptor.cuh"
#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {

namespace emulated {

// A factor as its descriptor says ("Matrix Descriptor Format" and "Canonical Layouts" of the PTX ISA).
class DescribedFactor {
 public:
  DescribedFactor(std::uint64_t descriptor, bool lies_across)
      : start_(bytes(descriptor, 0)),
        leading_(bytes(descriptor, 16)),
        stride_(bytes(descriptor, 32)),
        lies_across_(lies_across) {
    constexpr std::uint64_t kSwizzledBy128Bytes = 1;
    if (descriptor >> 62 != kSwizzledBy128Bytes) emulation::fail("a descriptor of another swizzling mode");
    if ((descriptor >> 49 & 7) != 0) emulation::fail("a descriptor with a base offset");
  }

  // Of row `vector` of the left factor, or column `vector` of the right one.
  float element(unsigned vector, unsigned k) const {
    constexpr unsigned kRow = 128;
    constexpr unsigned kChunk = 16;
    const unsigned offset = lies_across_
                                ? vector % 8 * 2 + vector / 8 % 8 * kChunk + vector / 64 * leading_ +
                                      k % 8 * kRow + k / 8 * stride_
                                : vector % 8 * kRow + vector / 8 * stride_ + k % 8 * 2 + k / 8 * kChunk;
    unsigned address = start_ + offset;
    address ^= address >> 3 & 0x70U;  // bits 4 to 6 by bits 7 to 9
    std::uint16_t bits = 0;
    std::memcpy(
        &bits,
        static_cast<const std::byte*>(emulation::dynamic_shared_memory()) + (address - kFirstSharedAddress),
        sizeof bits);
    return low_half(bits);
  }

 private:
  static unsigned bytes(std::uint64_t descriptor, int shift) {
    return static_cast<unsigned>(descriptor >> shift & 0x3fffU) << 4;
  }

  unsigned start_;
  unsigned leading_;
  unsigned stride_;
  bool lies_across_;
};

// This thread's part of d [64, 8 kEights] += left [64, 16] right [16, 8 kEights].
template <std::size_t kEights>
void multiply(float (&d)[kEights][4], const DescribedFactor& left, const DescribedFactor& right) {
  constexpr unsigned kInnerElements = 16;
  const unsigned thread = threadIdx.x % 128;
  const unsigned row = thread / 32 * 16 + thread % 32 / 4;
  float of_rows[2][kInnerElements];
  for (unsigned k = 0; k < kInnerElements; ++k) {
    of_rows[0][k] = left.element(row, k);
    of_rows[1][k] = left.element(row + 8, k);
  }
  for (unsigned j = 0; j < kEights; ++j) {
    for (unsigned c = 0; c < 2; ++c) {
      float sums[2] = {};
      for (unsigned k = 0; k < kInnerElements; ++k) {
        const float of_column = right.element(8 * j + thread % 4 * 2 + c, k);
        sums[0] += of_rows[0][k] * of_column;
        sums[1] += of_rows[1][k] * of_column;
      }
      d[j][c] += sums[0];
      d[j][2 + c] += sums[1];
    }
  }
}

}  // namespace emulated

inline void publish_to_products() { emulation::publish_to_products(); }
inline void hand_sums_to_products() {}
inline void commit_products() { emulation::commit_products(); }
template <int kUnderWay>
void wait_for_products() {
  emulation::wait_for_products(kUnderWay);
}

template <bool kLeftAcross, bool kRightAcross, std::size_t kEights>
void begin_product(float (&d)[kEights][4], std::uint64_t left, std::uint64_t right) {
  static_assert(kEights == 16 || kEights == 32);
  emulation::multiply_later([&d, left, right] {
    emulated::multiply(d, emulated::DescribedFactor(left, kLeftAcross),
                       emulated::DescribedFactor(right, kRightAcross));
  });
}

}  // namespace conclave::cuda
