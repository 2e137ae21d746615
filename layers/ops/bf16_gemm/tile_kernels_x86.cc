// AVX512-BF16. Compiled for it whatever -march says: the choice falls at run time, by supported().
#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "layers/ops/bf16_gemm/tile_kernels.h"

#if defined(__x86_64__)

// GCC 12 warns of its own _mm512_undefined_epi32(), which is undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#include <immintrin.h>

namespace conclave::cpu::bf16 {
namespace {

constexpr int kLanes = 16;

// The first `count` lanes of 16; all of them for 16 and more.
inline __mmask16 first_lanes(std::int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xffff)
                         : static_cast<__mmask16>((1U << std::max<std::int64_t>(count, 0)) - 1U);
}
inline __mmask32 first_halves(std::int64_t count) {
  return count >= 2 * kLanes ? static_cast<__mmask32>(0xffffffffU)
                             : static_cast<__mmask32>((1ULL << std::max<std::int64_t>(count, 0)) - 1ULL);
}

// Up to 32 consecutive elements as 16 pairs; what lies beyond `count` is 0.
inline __m512i load_pairs(const float* from, std::int64_t count) {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), from);
  const __m512 high = _mm512_maskz_loadu_ps(first_lanes(count - kLanes), from + kLanes);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}
inline __m512i load_pairs(const bfloat16* from, std::int64_t count) {
  return _mm512_maskz_loadu_epi16(first_halves(count), from);
}

// 16 consecutive elements, each in the low half of a word.
inline __m512i load_halves(const float* from, __mmask16 lanes) {
  const __m512 values = _mm512_maskz_loadu_ps(lanes, from);
  return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}
inline __m512i load_halves(const bfloat16* from, __mmask16 lanes) {
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from));
}

// Elements of two neighbouring rows as pairs; the second row may be missing (null).
template <class Element>
inline __m512i load_pairs_of_rows(const Element* first, const Element* second, __mmask16 lanes) {
  const __m512i low = load_halves(first, lanes);
  if (second == nullptr) return low;
  return _mm512_or_si512(low, _mm512_slli_epi32(load_halves(second, lanes), 16));
}

// Transposes 16 x 16 words.
inline void transpose(__m512i (&r)[kLanes]) {
  __m512i t[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 b + c] holds columns c, c + 4, c + 8, c + 12 of rows 4 b .. 4 b + 3, four words each.
  for (int c = 0; c < 4; ++c) {
    const __m512i even01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
    const __m512i odd01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i even23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i odd23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(even01, even23, 0x88);
    t[c + 8] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
    t[c + 4] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
    t[c + 12] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
  }
  for (int i = 0; i < kLanes; ++i) r[i] = t[i];
}

// Up to 16 rows of a row-major source -> words [P, width] from `panel` on; whole vectors are stored in
// ascending order, so each row of words overwrites what the one before it left beyond its width.
template <class Element>
inline void pack_rows(const Element* source, std::int64_t stride, std::int64_t rows, std::int64_t k,
                      std::int64_t width, std::uint32_t* panel) {
  for (std::int64_t k0 = 0; k0 < k; k0 += 2 * kLanes) {
    __m512i words[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      words[i] = i < rows ? load_pairs(source + i * stride + k0, k - k0) : _mm512_setzero_si512();
    }
    transpose(words);
    const std::int64_t count = std::min<std::int64_t>(kLanes, pairs(k - k0));
    std::uint32_t* to = panel + k0 / 2 * width;
    if (count == kLanes) {
      for (int p = 0; p < kLanes; ++p) _mm512_storeu_si512(to + p * width, words[p]);
    } else {
      for (int p = 0; p < count; ++p) _mm512_storeu_si512(to + p * width, words[p]);
    }
  }
}

// The left side of a tile: pair(i) of row i, then next() pair. A panel of Rows rows...
template <int Rows>
class Panel {
 public:
  explicit Panel(const std::uint32_t* words) : words_(words) {}
  __m512i pair(int row) const { return _mm512_set1_epi32(static_cast<int>(words_[row])); }
  void next() { words_ += Rows; }

 private:
  const std::uint32_t* words_;
};

// ... or rows where they lie. A pointer for every third row: the two after it are one and two strides away,
// which an address can express, and twelve pointers would not fit into registers.
template <int Rows>
class RowsInPlace {
 public:
  RowsInPlace(const bfloat16* rows, std::int64_t stride) : stride_bytes_(stride * 2) {
    for (int i = 0; i < kPointers; ++i)
      third_[i] = reinterpret_cast<const char*>(rows) + 3 * i * stride_bytes_;
  }
  __m512i pair(int row) const {
    int word;
    __builtin_memcpy(&word, third_[row / 3] + row % 3 * stride_bytes_, sizeof word);
    return _mm512_set1_epi32(word);
  }
  void next() {
    for (const char*& pointer : third_) pointer += sizeof(int);
  }

 private:
  static constexpr int kPointers = (Rows + 2) / 3;
  const char* third_[kPointers];
  std::int64_t stride_bytes_;
};

template <int Rows, class Left>
inline void multiply(Left left, const std::uint32_t* right, std::int64_t pair_count,
                     __m512 (&sums)[Rows][2]) {
  for (int i = 0; i < Rows; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  for (std::int64_t p = 0; p < pair_count; ++p) {
    const auto right0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right));
    const auto right1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + kLanes));
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const auto row = reinterpret_cast<__m512bh>(left.pair(i));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], row, right0);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], row, right1);
    }
    left.next();
    right += kTileColumns;
  }
}

inline void store(__m512 sum, __mmask16 lanes, Write write, float* c) {
  if (write == Write::kStream && lanes == first_lanes(kLanes)) {
    _mm512_stream_ps(c, sum);
    return;
  }
  if (write == Write::kAdd) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, c));
  _mm512_mask_storeu_ps(c, lanes, sum);
}
inline void store(__m512 sum, __mmask16 lanes, Write write, bfloat16* c) {
  if (write == Write::kAdd) {
    const __m512i before = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, c)), 16);
    sum = _mm512_add_ps(sum, _mm512_castsi512_ps(before));
  }
  _mm256_mask_storeu_epi16(c, lanes, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
}

template <int Rows, class Left, class Element>
inline void multiply_and_store(Left left, const std::uint32_t* right, std::int64_t columns,
                               std::int64_t pair_count, Write write, Element* c, std::int64_t stride) {
  __m512 sums[Rows][2];
  multiply<Rows>(left, right, pair_count, sums);
  const __mmask16 lanes0 = first_lanes(columns);
  const __mmask16 lanes1 = first_lanes(columns - kLanes);
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
    store(sums[i][0], lanes0, write, c + i * stride);
    store(sums[i][1], lanes1, write, c + i * stride + kLanes);
  }
}

// compute(integral_constant Rows) for Rows = rows in [1, kTileRows].
template <class Compute, int... I>
inline void with_rows(std::int64_t rows, Compute compute, std::integer_sequence<int, I...>) {
  (void)((rows == I + 1 && (compute(std::integral_constant<int, I + 1>()), true)) || ...);
}
template <class Compute>
inline void with_rows(std::int64_t rows, Compute compute) {
  with_rows(rows, compute, std::make_integer_sequence<int, kTileRows>());
}

template <class Element>
void multiply_panel_and_store(const std::uint32_t* left, const std::uint32_t* right, std::int64_t rows,
                              std::int64_t columns, std::int64_t pair_count, Write write, Element* c,
                              std::int64_t stride) {
  with_rows(rows, [&](auto count) {
    multiply_and_store<count>(Panel<count>(left), right, columns, pair_count, write, c, stride);
  });
}

template <class Element>
void multiply_rows_and_store(const bfloat16* left, std::int64_t left_stride, const std::uint32_t* right,
                             std::int64_t rows, std::int64_t columns, std::int64_t pair_count, Write write,
                             Element* c, std::int64_t stride) {
  with_rows(rows, [&](auto count) {
    multiply_and_store<count>(RowsInPlace<count>(left, left_stride), right, columns, pair_count, write, c,
                              stride);
  });
}

}  // namespace

bool supported() {
  return __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}

template <class Element>
void pack_left(const Element* a, std::int64_t stride, std::int64_t rows, std::int64_t k,
               std::uint32_t* panel) {
  pack_rows(a, stride, rows, k, rows, panel);
}

template <class Element>
void pack_left_transposed(const Element* a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                          std::uint32_t* panel) {
  const __mmask16 lanes = first_lanes(rows);
  for (std::int64_t p = 0; p < pairs(k); ++p) {
    const Element* first = a + 2 * p * stride;
    const __m512i words = load_pairs_of_rows(first, 2 * p + 1 < k ? first + stride : nullptr, lanes);
    _mm512_storeu_si512(panel + p * rows, words);
  }
}

template <class Element>
void pack_right(const Element* b, std::int64_t stride, std::int64_t k, std::int64_t columns,
                std::uint32_t* panel) {
  const __mmask16 lanes0 = first_lanes(columns);
  const __mmask16 lanes1 = first_lanes(columns - kLanes);
  for (std::int64_t p = 0; p < pairs(k); ++p) {
    const Element* first = b + 2 * p * stride;
    const Element* second = 2 * p + 1 < k ? first + stride : nullptr;
    std::uint32_t* to = panel + p * kTileColumns;
    _mm512_storeu_si512(to, load_pairs_of_rows(first, second, lanes0));
    const bool has_more = columns > kLanes;
    _mm512_storeu_si512(
        to + kLanes,
        has_more ? load_pairs_of_rows(first + kLanes, second == nullptr ? nullptr : second + kLanes, lanes1)
                 : _mm512_setzero_si512());
  }
}

template <class Element>
void pack_right_transposed(const Element* b, std::int64_t stride, std::int64_t k, std::int64_t columns,
                           std::uint32_t* panel) {
  // The two halves of a row of words are written as whole vectors, so neither overwrites the other.
  pack_rows(b, stride, std::min<std::int64_t>(columns, kLanes), k, kTileColumns, panel);
  pack_rows(b + kLanes * stride, stride, std::max<std::int64_t>(columns - kLanes, 0), k, kTileColumns,
            panel + kLanes);
}

void multiply_tile(const std::uint32_t* left, const std::uint32_t* right, std::int64_t rows,
                   std::int64_t columns, std::int64_t pair_count, Write write, float* c,
                   std::int64_t stride) {
  multiply_panel_and_store(left, right, rows, columns, pair_count, write, c, stride);
}

void multiply_tile(const std::uint32_t* left, const std::uint32_t* right, std::int64_t rows,
                   std::int64_t columns, std::int64_t pair_count, Write write, bfloat16* c,
                   std::int64_t stride) {
  multiply_panel_and_store(left, right, rows, columns, pair_count, write, c, stride);
}

void round_rows(const float* a, std::int64_t stride, std::int64_t rows, std::int64_t k, bfloat16* to,
                std::int64_t to_stride) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k0 = 0; k0 < k; k0 += 2 * kLanes) {
      _mm512_storeu_si512(to + row * to_stride + k0, load_pairs(a + row * stride + k0, k - k0));
    }
  }
}

void multiply_rows(const bfloat16* left, std::int64_t left_stride, const std::uint32_t* right,
                   std::int64_t rows, std::int64_t columns, std::int64_t pair_count, Write write, float* c,
                   std::int64_t stride) {
  multiply_rows_and_store(left, left_stride, right, rows, columns, pair_count, write, c, stride);
}

void multiply_rows(const bfloat16* left, std::int64_t left_stride, const std::uint32_t* right,
                   std::int64_t rows, std::int64_t columns, std::int64_t pair_count, Write write, bfloat16* c,
                   std::int64_t stride) {
  multiply_rows_and_store(left, left_stride, right, rows, columns, pair_count, write, c, stride);
}

void end_streams() { _mm_sfence(); }

}  // namespace conclave::cpu::bf16

#pragma GCC pop_options

#else  // no such instructions on other processors: supported() says so, and nothing else is called

#include <cstdlib>

namespace conclave::cpu::bf16 {

bool supported() { return false; }

template <class Element>
void pack_left(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*) {
  std::abort();
}
template <class Element>
void pack_left_transposed(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*) {
  std::abort();
}
template <class Element>
void pack_right(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*) {
  std::abort();
}
template <class Element>
void pack_right_transposed(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*) {
  std::abort();
}
void multiply_tile(const std::uint32_t*, const std::uint32_t*, std::int64_t, std::int64_t, std::int64_t,
                   Write, float*, std::int64_t) {
  std::abort();
}
void multiply_tile(const std::uint32_t*, const std::uint32_t*, std::int64_t, std::int64_t, std::int64_t,
                   Write, bfloat16*, std::int64_t) {
  std::abort();
}
void round_rows(const float*, std::int64_t, std::int64_t, std::int64_t, bfloat16*, std::int64_t) {
  std::abort();
}
void multiply_rows(const bfloat16*, std::int64_t, const std::uint32_t*, std::int64_t, std::int64_t,
                   std::int64_t, Write, float*, std::int64_t) {
  std::abort();
}
void multiply_rows(const bfloat16*, std::int64_t, const std::uint32_t*, std::int64_t, std::int64_t,
                   std::int64_t, Write, bfloat16*, std::int64_t) {
  std::abort();
}
void end_streams() { std::abort(); }

}  // namespace conclave::cpu::bf16

#endif

namespace conclave::cpu::bf16 {

#define CONCLAVE_PACKERS(Element)                                                                     \
  template void pack_left(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*);  \
  template void pack_left_transposed(const Element*, std::int64_t, std::int64_t, std::int64_t,        \
                                     std::uint32_t*);                                                 \
  template void pack_right(const Element*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t*); \
  template void pack_right_transposed(const Element*, std::int64_t, std::int64_t, std::int64_t,       \
                                      std::uint32_t*);
CONCLAVE_PACKERS(float)
CONCLAVE_PACKERS(bfloat16)
#undef CONCLAVE_PACKERS

}  // namespace conclave::cpu::bf16
