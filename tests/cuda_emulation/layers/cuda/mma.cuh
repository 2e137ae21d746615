// In place of the tree's own: what its instructions do, by the layouts that it states.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {

namespace emulated {

inline float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
inline float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000U); }

// To nearest, ties to even; NaN is the canonical one, as the instruction's.
inline unsigned bf16_bits(float value) {
  const unsigned raw = __float_as_uint(value);
  if ((raw & 0x7fffffffU) > 0x7f800000U) return 0x7fffU;
  return (raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16;
}

inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
  const void* rows[warpSize];
  emulation::exchange_in_warp(&row, rows, sizeof row);
  const int lane = emulation::lane();
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

}  // namespace emulated

// As if the runtime had taken the first KiB, as it does.
inline constexpr unsigned kFirstSharedAddress = 1024;
inline unsigned shared_address(const void* shared) {
  const auto* first = static_cast<const std::byte*>(emulation::dynamic_shared_memory());
  return kFirstSharedAddress + static_cast<unsigned>(static_cast<const std::byte*>(shared) - first);
}

inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
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
      sum += emulated::low_half(of_a) * emulated::low_half(of_b);
      sum += emulated::high_half(of_a) * emulated::high_half(of_b);
    }
    d[i] += sum;
  }
}

inline void load_matrices(unsigned (&r)[4], const void* row) { emulated::load_matrices(r, row, false); }
inline void load_transposed_matrices(unsigned (&r)[4], const void* row) {
  emulated::load_matrices(r, row, true);
}

inline unsigned pack_bf16(float low, float high) {
  return emulated::bf16_bits(low) | emulated::bf16_bits(high) << 16;
}

inline float power_of_two(float x) {
  const float power = std::exp2(x);
  return power < FLT_MIN ? 0.0F : power;  // of NaN NaN
}

inline void copy_async_16(void* shared, const void* global, int bytes) {
  emulation::copy_later(shared, global, static_cast<std::size_t>(bytes), 16);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kUnderWay>
void wait_for_copies() {
  emulation::wait_for_copies(kUnderWay);
}

}  // namespace conclave::cuda
