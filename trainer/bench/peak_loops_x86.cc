// Multiply-add loops for x86-64.
#if defined(__x86_64__)

#include <immintrin.h>

#include "trainer/bench/machine_peak.h"

namespace conclave::bench {
namespace {

// Independent sums: more than latency times throughput of any such unit, fewer than there are registers.
constexpr int kSums = 12;

__attribute__((target("avx512f"))) float sum_of_lanes(__m512 values) {
  float lanes[16];
  _mm512_storeu_ps(lanes, values);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

__attribute__((target("avx512f"))) float fma_avx512(std::int64_t iterations) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 a = _mm512_set1_ps(1.5F);
  const __m512 b = _mm512_set1_ps(1e-6F);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm512_fmadd_ps(a, b, sums[s]);
  }
  __m512 all = sums[0];
  for (int s = 1; s < kSums; ++s) all = _mm512_add_ps(all, sums[s]);
  return sum_of_lanes(all);
}

__attribute__((target("avx2,fma"))) float fma_avx2(std::int64_t iterations) {
  __m256 sums[kSums];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(1.5F);
  const __m256 b = _mm256_set1_ps(1e-6F);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm256_fmadd_ps(a, b, sums[s]);
  }
  __m256 all = sums[0];
  for (int s = 1; s < kSums; ++s) all = _mm256_add_ps(all, sums[s]);
  float lanes[8];
  _mm256_storeu_ps(lanes, all);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

__attribute__((target("sse2"))) float multiply_add_sse2(std::int64_t iterations) {
  __m128 sums[kSums];
  for (__m128& sum : sums) sum = _mm_setzero_ps();
  const __m128 a = _mm_set1_ps(1e-6F);
  const __m128 scale = _mm_set1_ps(0.999F);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm_add_ps(_mm_mul_ps(sums[s], scale), a);
  }
  __m128 all = sums[0];
  for (int s = 1; s < kSums; ++s) all = _mm_add_ps(all, sums[s]);
  return _mm_cvtss_f32(all);
}

__attribute__((target("avx512f,avx512bf16"))) float dot_avx512_bf16(std::int64_t iterations) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.5F), _mm512_set1_ps(1.5F));
  const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-6F), _mm512_set1_ps(1e-6F));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm512_dpbf16_ps(sums[s], a, b);
  }
  __m512 all = sums[0];
  for (int s = 1; s < kSums; ++s) all = _mm512_add_ps(all, sums[s]);
  return sum_of_lanes(all);
}

}  // namespace

PeakLoop fp32_peak_loop() {
  if (__builtin_cpu_supports("avx512f")) return {"avx512f", 2.0 * 16 * kSums, fma_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {"avx2 fma", 2.0 * 8 * kSums, fma_avx2};
  return {"sse2", 2.0 * 4 * kSums, multiply_add_sse2};
}

PeakLoop bf16_peak_loop() {
  if (!__builtin_cpu_supports("avx512bf16")) return {};
  return {"avx512_bf16", 2.0 * 32 * kSums, dot_avx512_bf16};
}

}  // namespace conclave::bench

#endif
