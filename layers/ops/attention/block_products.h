// Products of blocks within attention, each on the calling thread alone: in fp32 by oneDNN, or with factors
// rounded to bf16 by the kernels of layers/ops/bf16_gemm. Both add up in fp32.
//
// A factor is made ready once, as a Left or a Right side, and may serve many products; in bf16 that packs it.
//
//   left(transpose, m, k, a)    op(a) [m, k]
//   right(transpose, k, n, b)   op(b) [k, n]; of it products may take columns(first) on, a multiple of 32,
//                               and elements inner(first) on of every sum, an even number
//   multiply(left, right, m, n, k, accumulate, c)   c [m, n] = left right, or +=
//
// Sides stay ready until the Frame ends in which they were made.
#pragma once

#include <dnnl.h>

#include <algorithm>
#include <cstdint>

#include "layers/context.h"
#include "layers/ops/attention/attention_block.h"
#include "layers/ops/bf16_gemm/tile_kernels.h"

namespace conclave::cpu {

enum class Transpose : char { kNo = 'N', kYes = 'T' };

class Fp32Products {
 public:
  struct Left {
    ConstMatrix matrix;
    Transpose transpose;
  };
  struct Right {
    ConstMatrix matrix;
    Transpose transpose;

    Right columns(std::int64_t first) const {
      return {transpose == Transpose::kYes ? matrix.from(first) : matrix.from(0, first), transpose};
    }
    Right inner(std::int64_t first) const {
      return {transpose == Transpose::kYes ? matrix.from(0, first) : matrix.from(first), transpose};
    }
  };
  struct Frame {
    explicit Frame(Fp32Products& /*products*/) {}
  };

  static std::int64_t scratch_words(std::int64_t /*keys*/, std::int64_t /*head_dim*/) { return 0; }
  explicit Fp32Products(std::uint32_t* /*scratch*/) {}

  Left left(Transpose transpose, std::int64_t /*m*/, std::int64_t /*k*/, ConstMatrix a) {
    return {a, transpose};
  }
  Right right(Transpose transpose, std::int64_t /*k*/, std::int64_t /*n*/, ConstMatrix b) {
    return {b, transpose};
  }

  void multiply(const Left& a, const Right& b, std::int64_t m, std::int64_t n, std::int64_t k,
                bool accumulate, Matrix c) {
    const dnnl_status_t status = dnnl_sgemm(static_cast<char>(a.transpose), static_cast<char>(b.transpose), m,
                                            n, k, 1.0F, a.matrix.data, a.matrix.stride, b.matrix.data,
                                            b.matrix.stride, accumulate ? 1.0F : 0.0F, c.data, c.stride);
    failed_ = failed_ || status != dnnl_success;
  }
  // An exception can't leave a parallel region, so a refusal is remembered, to be checked after it.
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

class Bf16Products {
 public:
  // Rows as they lie, rounded; or, where op transposes, panels of kTileRows rows, the last of which may have
  // fewer.
  struct Left {
    const bfloat16* rows;  // null: panels
    std::int64_t stride;
    const std::uint32_t* panels;
  };
  struct Right {
    const std::uint32_t* words;  // panels of kTileColumns columns
    std::int64_t panel_words;

    Right columns(std::int64_t first) const {
      return {words + first / bf16::kTileColumns * panel_words, panel_words};
    }
    Right inner(std::int64_t first) const { return {words + first / 2 * bf16::kTileColumns, panel_words}; }
  };
  class Frame {
   public:
    explicit Frame(Bf16Products& products) : products_(products), free_(products.free_) {}
    ~Frame() { products_.free_ = free_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Bf16Products& products_;
    std::uint32_t* free_;
  };

  // For one head: its keys and values as three right sides, and what a block of queries adds.
  static std::int64_t scratch_words(std::int64_t keys, std::int64_t head_dim) {
    const std::int64_t of_head = std::max(right_words(keys, head_dim), right_words(head_dim, keys));
    const std::int64_t of_block = left_words(kQueryBlock, head_dim) + right_words(kQueryBlock, head_dim);
    const std::int64_t of_scores =
        std::max(left_words(kQueryBlock, kKeyBlock), left_words(kKeyBlock, kQueryBlock));
    return 3 * of_head + 2 * of_block + of_scores;
  }
  explicit Bf16Products(std::uint32_t* scratch) : free_(scratch) {}

  Left left(Transpose transpose, std::int64_t m, std::int64_t k, ConstMatrix a) {
    using namespace bf16;
    std::uint32_t* words = take(left_words(m, k));
    if (transpose == Transpose::kNo) {
      auto* rows = reinterpret_cast<bfloat16*>(words);
      round_rows(a.data, a.stride, m, k, rows, row_stride(k));
      return {.rows = rows, .stride = row_stride(k), .panels = nullptr};
    }
    for (std::int64_t row = 0; row < m; row += kTileRows) {
      pack_left_transposed(a.from(0, row).data, a.stride, std::min(kTileRows, m - row), k,
                           words + row * pairs(k));
    }
    return {.rows = nullptr, .stride = 0, .panels = words};
  }

  Right right(Transpose transpose, std::int64_t k, std::int64_t n, ConstMatrix b) {
    using namespace bf16;
    const Right packed{take(right_words(k, n)), pairs(k) * kTileColumns};
    auto* panel = const_cast<std::uint32_t*>(packed.words);
    for (std::int64_t column = 0; column < n; column += kTileColumns, panel += packed.panel_words) {
      const std::int64_t columns = std::min(kTileColumns, n - column);
      if (transpose == Transpose::kYes) {
        pack_right_transposed(b.row(column), b.stride, k, columns, panel);
      } else {
        pack_right(b.from(0, column).data, b.stride, k, columns, panel);
      }
    }
    return packed;
  }

  void multiply(const Left& a, const Right& b, std::int64_t m, std::int64_t n, std::int64_t k,
                bool accumulate, Matrix c) {
    using namespace bf16;
    const Write write = accumulate ? Write::kAdd : Write::kAssign;
    const std::uint32_t* panel = b.words;
    for (std::int64_t column = 0; column < n; column += kTileColumns, panel += b.panel_words) {
      for (std::int64_t row = 0; row < m; row += kTileRows) {
        const std::int64_t rows = std::min(kTileRows, m - row);
        const std::int64_t columns = std::min(kTileColumns, n - column);
        float* sums = c.from(row, column).data;
        if (a.rows != nullptr) {
          multiply_rows(a.rows + row * a.stride, a.stride, panel, rows, columns, pairs(k), write, sums,
                        c.stride);
        } else {
          multiply_tile(a.panels + row * pairs(k), panel, rows, columns, pairs(k), write, sums, c.stride);
        }
      }
    }
  }
  static bool failed() { return false; }

 private:
  // A whole number of vectors, and never a multiple of 4096 bytes, where all rows would share a few cache
  // lines.
  static std::int64_t row_stride(std::int64_t k) {
    const std::int64_t whole = (k + 31) / 32 * 32;
    return bf16::is_left_side(whole) ? whole : whole + 32;
  }
  static std::int64_t left_words(std::int64_t m, std::int64_t k) {
    return m * row_stride(k) / 2 + bf16::kLeftSlack;
  }
  static std::int64_t right_words(std::int64_t k, std::int64_t n) {
    return (n + bf16::kTileColumns - 1) / bf16::kTileColumns * bf16::kTileColumns * bf16::pairs(k);
  }
  std::uint32_t* take(std::int64_t words) {
    std::uint32_t* taken = free_;
    free_ += words;
    return taken;
  }

  std::uint32_t* free_;
};

// The scratch of each thread's products, in ctx.arena.
template <class Products>
class ProductsScratch {
 public:
  ProductsScratch(Context& ctx, std::int64_t threads, std::int64_t keys, std::int64_t head_dim)
      : words_(Products::scratch_words(keys, head_dim)),
        memory_(ctx.arena->allocate({threads, words_}, DType::kInt32).template data<std::int32_t>()) {}
  Products of_thread(int thread) const {
    return Products(reinterpret_cast<std::uint32_t*>(memory_ + thread * words_));
  }

 private:
  std::int64_t words_;
  std::int32_t* memory_;
};

}  // namespace conclave::cpu
