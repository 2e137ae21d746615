// The multiply-add loop where no processor is known: what the compiler makes of it.
#if !defined(__x86_64__)

#include "trainer/bench/machine_peak.h"

namespace conclave::bench {
namespace {

constexpr int kSums = 64;

float multiply_add(std::int64_t iterations) {
  float sums[kSums] = {};
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma omp simd
    for (int s = 0; s < kSums; ++s) sums[s] = sums[s] * 0.999F + 1e-6F;
  }
  float all = 0;
  for (const float sum : sums) all += sum;
  return all;
}

}  // namespace

PeakLoop fp32_peak_loop() { return {"as compiled", 2.0 * kSums, multiply_add}; }
PeakLoop bf16_peak_loop() { return {}; }

}  // namespace conclave::bench

#endif
