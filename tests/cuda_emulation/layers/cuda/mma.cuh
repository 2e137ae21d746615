// In place of the tree's own: what its instructions do, by the layouts that it states.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {

namespace emulated {

// To nearest, ties to even; NaN is the canonical one, as the instruction's.
inline unsigned bf16_bits(float value) {
  const unsigned raw = __float_as_uint(value);
  if ((raw & 0x7fffffffU) > 0x7f800000U) return 0x7fffU;
  return (raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16;
}

void load_matrices(unsigned (&r)[4], const void* row, bool transposed);
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

}  // namespace emulated

// As if the runtime had taken the first KiB, as it does.
inline constexpr unsigned kFirstSharedAddress = 1024;
inline unsigned shared_address(const void* shared) {
  const auto* first = static_cast<const std::byte*>(emulation::dynamic_shared_memory());
  return kFirstSharedAddress + static_cast<unsigned>(static_cast<const std::byte*>(shared) - first);
}

using emulated::mma_m16n8k16;
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
