// In place of the tree's own: what its instructions do, by the layouts that it and the PTX ISA state.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layers/cuda/matrix_descriptor.cuh"
#include "tests/cuda_emulation/cuda_runtime.h"

namespace conclave::cuda {

namespace emulated {

// This thread's part of d [64, 8 kEights] += left [64, 16] right [16, 8 kEights], when it is waited for.
template <std::size_t kEights>
void begin_product(float (&d)[kEights][4], std::uint64_t left, bool left_lies_across, std::uint64_t right,
                   bool right_lies_across);

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
  emulated::begin_product(d, left, kLeftAcross, right, kRightAcross);
}

}  // namespace conclave::cuda
