// The instructions that layers/cuda/mma.cuh declares. Not within kernels, so that the check for races sees
// what they touch, not how.
#include "tests/cuda_emulation/layers/cuda/mma.cuh"

#include <cstring>

namespace conclave::cuda::emulated {
namespace {

float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000U); }

}  // namespace

void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
  const void* rows[warpSize];
  emulation::exchange_in_warp(&row, rows, sizeof row);
  const int lane = emulation::lane();
  // Every lane reads of many rows. That each row is read by another lane than named it is all that matters.
  emulation::note_read(rows[(lane + 1) % warpSize], 16, __builtin_return_address(0));
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int matrix_row, int column) {
      std::uint16_t element = 0;
      std::memcpy(&element, static_cast<const std::byte*>(rows[8 * i + matrix_row]) + 2 * column,
                  sizeof element);
      return static_cast<unsigned>(element);
    };
    const int pair = 2 * (lane % 4);
    r[i] = transposed ? at(pair, lane / 4) | at(pair + 1, lane / 4) << 16
                      : at(lane / 4, pair) | at(lane / 4, pair + 1) << 16;
  }
  emulation::from_lane(0, 0);  // all have read before anyone writes
}

void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Fragments {
    unsigned a[4];
    unsigned b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  Fragments all[warpSize];
  emulation::exchange_in_warp(&mine, all, sizeof mine);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8);
    const int column = 2 * (lane % 4) + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; k += 2) {
      const int pair_lane = k % 8 / 2;
      const unsigned of_a = all[4 * (row % 8) + pair_lane].a[(row < 8 ? 0 : 1) + (k < 8 ? 0 : 2)];
      const unsigned of_b = all[4 * column + pair_lane].b[k < 8 ? 0 : 1];
      sum += low_half(of_a) * low_half(of_b);
      sum += high_half(of_a) * high_half(of_b);
    }
    d[i] += sum;
  }
}

}  // namespace conclave::cuda::emulated
