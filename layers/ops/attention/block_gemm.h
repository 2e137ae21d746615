// Products of blocks within attention, each on the calling thread alone: in fp32 by oneDNN, or with factors
// rounded to bf16 by the kernels of layers/ops/bf16_gemm. Both add up in fp32.
//
//   gemm(transpose_a, transpose_b, m, n, k, a, b, accumulate, c):   c = op(a) op(b), or c += op(a) op(b);
//   c [m, n], op(a) [m, k], op(b) [k, n]
#pragma once

#include <dnnl.h>

#include <algorithm>
#include <cstdint>

#include "layers/context.h"
#include "layers/ops/attention/attention_block.h"
#include "layers/ops/bf16_gemm/tile_kernels.h"

namespace conclave::cpu {

enum class Transpose : char { kNo = 'N', kYes = 'T' };

class Fp32BlockGemm {
 public:
  static std::int64_t scratch_words(std::int64_t /*head_dim*/) { return 0; }
  explicit Fp32BlockGemm(std::uint32_t* /*scratch*/, std::int64_t /*head_dim*/) {}

  void operator()(Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                  std::int64_t k, ConstMatrix a, ConstMatrix b, bool accumulate, Matrix c) {
    const dnnl_status_t status =
        dnnl_sgemm(static_cast<char>(transpose_a), static_cast<char>(transpose_b), m, n, k, 1.0F, a.data,
                   a.stride, b.data, b.stride, accumulate ? 1.0F : 0.0F, c.data, c.stride);
    failed_ = failed_ || status != dnnl_success;
  }
  // An exception can't leave a parallel region, so a refusal is remembered, to be checked after it.
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

// Packs both factors anew for each product: about a sixth of the product's time at blocks of this size.
class Bf16BlockGemm {
 public:
  // What the products of a head of this width need: every extent is at most its width or a block's.
  static std::int64_t scratch_words(std::int64_t head_dim) {
    return left_words(head_dim) + longest(head_dim) * bf16::pairs(longest(head_dim));
  }
  explicit Bf16BlockGemm(std::uint32_t* scratch, std::int64_t head_dim)
      : left_(scratch), right_(scratch + left_words(head_dim)) {}

  void operator()(Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                  std::int64_t k, ConstMatrix a, ConstMatrix b, bool accumulate, Matrix c) {
    using namespace bf16;
    for (std::int64_t row = 0; row < m; row += kTileRows) {
      const std::int64_t rows = std::min(kTileRows, m - row);
      if (transpose_a == Transpose::kYes) {
        pack_left_transposed(a.from(0, row).data, a.stride, rows, k, left_ + row * pairs(k));
      } else {
        pack_left(a.row(row), a.stride, rows, k, left_ + row * pairs(k));
      }
    }
    for (std::int64_t column = 0; column < n; column += kTileColumns) {
      const std::int64_t columns = std::min(kTileColumns, n - column);
      if (transpose_b == Transpose::kYes) {
        pack_right_transposed(b.row(column), b.stride, k, columns, right_);
      } else {
        pack_right(b.from(0, column).data, b.stride, k, columns, right_);
      }
      for (std::int64_t row = 0; row < m; row += kTileRows) {
        multiply_tile(left_ + row * pairs(k), right_, std::min(kTileRows, m - row), columns, pairs(k),
                      accumulate, c.from(row, column).data, c.stride);
      }
    }
  }
  static bool failed() { return false; }

 private:
  static std::int64_t longest(std::int64_t head_dim) {
    const std::int64_t extent = std::max({head_dim, kQueryBlock, kKeyBlock});
    return (extent + bf16::kTileColumns - 1) / bf16::kTileColumns * bf16::kTileColumns;
  }
  static std::int64_t left_words(std::int64_t head_dim) {
    return longest(head_dim) * bf16::pairs(longest(head_dim)) + bf16::kLeftSlack;
  }

  std::uint32_t* left_;   // panels of kTileRows rows, the last may have fewer
  std::uint32_t* right_;  // one panel
};

// Scratch of a block gemm for each thread, in ctx.arena.
template <class Gemm>
class BlockGemmScratch {
 public:
  BlockGemmScratch(Context& ctx, std::int64_t threads, std::int64_t head_dim)
      : head_dim_(head_dim),
        words_(Gemm::scratch_words(head_dim)),
        memory_(ctx.arena->allocate({threads, words_}, DType::kInt32).template data<std::int32_t>()) {}
  Gemm gemm_of_thread(int thread) const {
    return Gemm(reinterpret_cast<std::uint32_t*>(memory_ + thread * words_), head_dim_);
  }

 private:
  std::int64_t head_dim_;
  std::int64_t words_;
  std::int32_t* memory_;
};

}  // namespace conclave::cpu
