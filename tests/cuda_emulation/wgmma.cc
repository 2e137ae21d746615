// The products that layers/cuda/wgmma.cuh declares.
#include "tests/cuda_emulation/layers/cuda/wgmma.cuh"

#include <cstring>
#include <vector>

namespace conclave::cuda::emulated {
namespace {

constexpr unsigned kInner = 16;

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
    std::uint16_t bits = 0;
    std::memcpy(&bits, place(vector, k), sizeof bits);
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
  }

  // Adds where all its elements lie: in chunks of eight neighbours.
  void list(unsigned vectors, std::vector<emulation::SharedPiece>& pieces) const {
    const unsigned vectors_of_chunk = lies_across_ ? 8 : 1;
    const unsigned elements_of_chunk = lies_across_ ? 1 : 8;
    for (unsigned vector = 0; vector < vectors; vector += vectors_of_chunk) {
      for (unsigned k = 0; k < kInner; k += elements_of_chunk) pieces.push_back({place(vector, k), kChunk});
    }
  }

 private:
  static constexpr unsigned kChunk = 16;

  const std::byte* place(unsigned vector, unsigned k) const {
    constexpr unsigned kRow = 128;
    const unsigned offset = lies_across_
                                ? vector % 8 * 2 + vector / 8 % 8 * kChunk + vector / 64 * leading_ +
                                      k % 8 * kRow + k / 8 * stride_
                                : vector % 8 * kRow + vector / 8 * stride_ + k % 8 * 2 + k / 8 * kChunk;
    unsigned address = start_ + offset;
    address ^= address >> 3 & 0x70U;  // bits 4 to 6 by bits 7 to 9
    return static_cast<const std::byte*>(emulation::dynamic_shared_memory()) +
           (address - kFirstSharedAddress);
  }
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
  const unsigned thread = threadIdx.x % 128;
  const unsigned row = thread / 32 * 16 + thread % 32 / 4;
  float of_rows[2][kInner];
  for (unsigned k = 0; k < kInner; ++k) {
    of_rows[0][k] = left.element(row, k);
    of_rows[1][k] = left.element(row + 8, k);
  }
  for (unsigned j = 0; j < kEights; ++j) {
    for (unsigned c = 0; c < 2; ++c) {
      float sums[2] = {};
      for (unsigned k = 0; k < kInner; ++k) {
        const float of_column = right.element(8 * j + thread % 4 * 2 + c, k);
        sums[0] += of_rows[0][k] * of_column;
        sums[1] += of_rows[1][k] * of_column;
      }
      d[j][c] += sums[0];
      d[j][2 + c] += sums[1];
    }
  }
}

}  // namespace

template <std::size_t kEights>
void begin_product(float (&d)[kEights][4], std::uint64_t left, bool left_lies_across, std::uint64_t right,
                   bool right_lies_across) {
  const DescribedFactor left_factor(left, left_lies_across);
  const DescribedFactor right_factor(right, right_lies_across);
  // The whole warpgroup reads them. That threads of two warps do is all that matters.
  std::vector<emulation::SharedPiece> reads;
  if (threadIdx.x % 64 == 0) {
    left_factor.list(64, reads);
    right_factor.list(8 * kEights, reads);
  }
  emulation::multiply_later([&d, left_factor, right_factor] { multiply(d, left_factor, right_factor); },
                            std::move(reads), __builtin_return_address(0));
}

template void begin_product(float (&)[16][4], std::uint64_t, bool, std::uint64_t, bool);
template void begin_product(float (&)[32][4], std::uint64_t, bool, std::uint64_t, bool);

}  // namespace conclave::cuda::emulated
