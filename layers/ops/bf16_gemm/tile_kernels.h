// The inner loops of bf16 products: packed panels of two operands, one tile of the result at a time.
//
// vdpbf16ps multiplies pairs of neighbouring elements along k and adds both products to an fp32 lane, so both
// operands are stored as pairs: 32-bit words (element 2p in the low half, 2p + 1 in the high half; the second
// of an odd last pair is 0).
//
//   left panel    uint32 [P, rows]           up to kTileRows rows, P = pairs(K)
//   right panel   uint32 [P, kTileColumns]   missing columns are 0
//
// fp32 elements are rounded to the nearest bf16, ties to even; subnormal numbers count as 0. The sum of an
// element runs over k in ascending order whatever the tile, so a row's result does not depend on the rows
// beside it. Everything runs on the calling thread; only where supported() may anything else be called.
#pragma once

#include <cstdint>

#include "comm/base/dtype.h"

namespace conclave::cpu::bf16 {

constexpr std::int64_t kTileRows =
    12;  // 12 x 2 accumulators, 2 right vectors and a broadcast: 27 of 32 registers
constexpr std::int64_t kTileColumns = 32;
// A left panel is written in whole vectors: this many words beyond its end must be writable.
constexpr std::int64_t kLeftSlack = 16;

constexpr std::int64_t pairs(std::int64_t k) { return (k + 1) / 2; }

// What becomes of a tile's sums.
enum class Write : std::uint8_t {
  kAssign,
  kAdd,
  kStream  // assign past the caches, for results that are not read soon: their lines aren't fetched first.
           // fp32 tiles whose rows begin on a cache line; end_streams() once all are computed
};

// True if this CPU and operating system have AVX512-BF16.
bool supported();

// Element is float or bfloat16; `stride` counts elements from one row of the source to the next.
// a [rows, k] -> left panel.
template <class Element>
void pack_left(const Element* a, std::int64_t stride, std::int64_t rows, std::int64_t k,
               std::uint32_t* panel);
// a [k, rows] -> left panel.
template <class Element>
void pack_left_transposed(const Element* a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                          std::uint32_t* panel);
// b [k, columns] -> right panel.
template <class Element>
void pack_right(const Element* b, std::int64_t stride, std::int64_t k, std::int64_t columns,
                std::uint32_t* panel);
// b [columns, k] -> right panel.
template <class Element>
void pack_right_transposed(const Element* b, std::int64_t stride, std::int64_t k, std::int64_t columns,
                           std::uint32_t* panel);

// c [rows, columns] = left right, or +=; rows in [1, kTileRows], columns in [1,
// kTileColumns].
void multiply_tile(const std::uint32_t* left, const std::uint32_t* right, std::int64_t rows,
                   std::int64_t columns, std::int64_t pair_count, Write write, float* c, std::int64_t stride);
// The same, rounded to bf16.
void multiply_tile(const std::uint32_t* left, const std::uint32_t* right, std::int64_t rows,
                   std::int64_t columns, std::int64_t pair_count, Write write, bfloat16* c,
                   std::int64_t stride);

// True if rows of k bf16 elements, one after the other, can be a left side as they lie: they are whole pairs,
// and their distance does not map all rows of a tile to the same few lines of the first-level cache.
constexpr bool is_left_side(std::int64_t k) { return k % 2 == 0 && k % 2048 != 0; }
// a [rows, k] rounded to bf16 -> rows `to_stride` apart, k rounded up to an even number with a 0; in whole
// vectors, so that to_stride is a multiple of 32.
void round_rows(const float* a, std::int64_t stride, std::int64_t rows, std::int64_t k, bfloat16* to,
                std::int64_t to_stride);
// The same product with left [rows, 2 pair_count], `left_stride` elements from one row to the next, read
// where it lies: to the last bit what its panel gives.
void multiply_rows(const bfloat16* left, std::int64_t left_stride, const std::uint32_t* right,
                   std::int64_t rows, std::int64_t columns, std::int64_t pair_count, Write write, float* c,
                   std::int64_t stride);
void multiply_rows(const bfloat16* left, std::int64_t left_stride, const std::uint32_t* right,
                   std::int64_t rows, std::int64_t columns, std::int64_t pair_count, Write write, bfloat16* c,
                   std::int64_t stride);

// What this thread wrote past the caches is seen by those that are told of it from now on.
void end_streams();

}  // namespace conclave::cpu::bf16
