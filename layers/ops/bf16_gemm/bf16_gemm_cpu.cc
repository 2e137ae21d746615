#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "comm/base/partition.h"
#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "layers/ops/bf16_gemm/tile_kernels.h"
#include "layers/tensor/visit_elements.h"

namespace conclave::cpu {
namespace {

using namespace bf16;

// Left rows that are packed together. With K = 1024 they take 192 KB, and each right panel, 64 KB, is read
// from the second-level cache by all eight tiles while it is hot.
constexpr std::int64_t kBlockRows = 8 * kTileRows;
// Rows summed over between two visits of a tile of dweights.
constexpr std::int64_t kSumRows = 512;
// Gradients from this size on go past the caches where they are assigned: few rows make up each, so that
// memory is what bounds them, and they are read again only when all of backward is through.
constexpr std::int64_t kStreamedBytes = std::int64_t{4} << 20;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::uint32_t* words(const TensorView& packed) {
  return reinterpret_cast<std::uint32_t*>(packed.data<bfloat16>());
}
const std::uint32_t* words(const ConstTensorView& packed) {
  return reinterpret_cast<const std::uint32_t*>(packed.data<bfloat16>());
}

// Scratch of `words` words for each thread.
class ThreadScratch {
 public:
  ThreadScratch(Arena& arena, std::int64_t words)
      : words_(words),
        memory_(arena.allocate({omp_get_max_threads(), words}, DType::kInt32).data<std::int32_t>()) {}
  std::uint32_t* of_this_thread() const {
    return reinterpret_cast<std::uint32_t*>(memory_ + omp_get_thread_num() * words_);
  }

 private:
  std::int64_t words_;
  std::int32_t* memory_;
};

// A block of rows as left panels of nearly equal height, one after the other.
class LeftBlock {
 public:
  LeftBlock(std::uint32_t* words, std::int64_t rows, std::int64_t k)
      : words_(words), rows_(rows), pairs_(pairs(k)), tiles_(ceil_div(rows, kTileRows)) {}

  static std::int64_t words(std::int64_t rows, std::int64_t k) { return rows * pairs(k) + kLeftSlack; }

  // pack(first row, rows, panel) for each tile.
  template <class Pack>
  void fill(Pack pack) const {
    for (std::int64_t tile = 0; tile < tiles_; ++tile) {
      const Range rows = partition(rows_, tiles_, tile);
      pack(rows.begin, rows.size(), words_ + rows.begin * pairs_);
    }
  }
  // c [rows, columns of the panel] = block x panel.
  template <class Element>
  void multiply(const std::uint32_t* right, std::int64_t columns, Write write, Element* c,
                std::int64_t stride) const {
    for (std::int64_t tile = 0; tile < tiles_; ++tile) {
      const Range rows = partition(rows_, tiles_, tile);
      multiply_tile(words_ + rows.begin * pairs_, right, rows.size(), columns, pairs_, write,
                    c + rows.begin * stride, stride);
    }
  }

 private:
  std::uint32_t* words_;
  std::int64_t rows_;
  std::int64_t pairs_;
  std::int64_t tiles_;
};

// compute(expert, first, last) for every block [first, last) of at most `block` of the rows [begin(expert),
// end(expert)) of every expert, on all threads; no thread waits at the end of an expert.
template <class Begin, class End, class Compute>
void for_each_block(std::int64_t experts, std::int64_t block, Begin begin, End end, Compute compute) {
#pragma omp parallel
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    const std::int64_t last_row = end(expert);
#pragma omp for schedule(dynamic) nowait
    for (std::int64_t first = begin(expert); first < last_row; first += block) {
      compute(expert, first, std::min(first + block, last_row));
    }
  }
}

// Rows of x as the left side: as they lie, or packed into `scratch`, which is theirs while they live.
//   multiply(right panel, columns, write, c, stride of c)
template <class Input>
class LeftRows {
 public:
  LeftRows(const Input* x, std::int64_t rows, std::int64_t k, std::uint32_t* scratch)
      : x_(x), rows_(rows), k_(k), packed_(scratch, rows, k) {
    if (lies_ready(k)) return;
    packed_.fill([&](std::int64_t row, std::int64_t count, std::uint32_t* panel) {
      pack_left(x + row * k, k, count, k, panel);
    });
  }

  static bool lies_ready(std::int64_t k) { return std::is_same_v<Input, bfloat16> && is_left_side(k); }

  template <class Output>
  void multiply(const std::uint32_t* right, std::int64_t columns, Write write, Output* c,
                std::int64_t stride) const {
    if constexpr (std::is_same_v<Input, bfloat16>) {
      if (lies_ready(k_)) {
        const std::int64_t tiles = ceil_div(rows_, kTileRows);
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          const Range rows = partition(rows_, tiles, tile);
          multiply_rows(x_ + rows.begin * k_, k_, right, rows.size(), columns, pairs(k_), write,
                        c + rows.begin * stride, stride);
        }
        return;
      }
    }
    packed_.multiply(right, columns, write, c, stride);
  }

 private:
  const Input* x_;
  std::int64_t rows_;
  std::int64_t k_;
  LeftBlock packed_;
};

template <class Input, class Output>
void multiply_groups(Context& ctx, const Bf16GroupedGemmArgs& args, const Input* x, Output* y) {
  const std::int64_t k = args.x.extent(1);
  const std::int64_t n = args.y.extent(1);
  const std::int64_t panel_words = pairs(k) * kTileColumns;
  const std::int64_t matrix_words = packed_elements(k, n) / 2;
  const std::uint32_t* packed = words(args.packed);
  const Write write = args.accumulate ? Write::kAdd : Write::kAssign;
  const Arena::Mark mark(*ctx.arena);
  const ThreadScratch scratch(*ctx.arena, LeftBlock::words(kBlockRows, k));
  const auto offset = [&](std::int64_t expert) { return args.offsets[static_cast<std::size_t>(expert)]; };
  for_each_block(
      args.packed.extent(0), kBlockRows, offset, [&](std::int64_t expert) { return offset(expert + 1); },
      [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
        const LeftRows<Input> left(x + first * k, last - first, k, scratch.of_this_thread());
        const std::uint32_t* right = packed + expert * matrix_words;
        for (std::int64_t column = 0; column < n; column += kTileColumns, right += panel_words) {
          left.multiply(right, std::min(kTileColumns, n - column), write, y + first * n + column, n);
        }
      });
}

// The rows of x of every expert as right sides [R_e, K], packed from the expert's first pair on.
template <class Input>
void pack_rows_of_experts(const Input* x, std::int64_t k, std::span<const std::int64_t> offsets,
                          std::span<const std::int64_t> first_pair, std::uint32_t* packed) {
  constexpr std::int64_t kPackRows = 64;  // even: a block starts with a pair
  const auto offset = [&](std::int64_t expert) { return offsets[static_cast<std::size_t>(expert)]; };
  const std::int64_t panels = ceil_div(k, kTileColumns);
  for_each_block(
      std::ssize(offsets) - 1, kPackRows, offset, [&](std::int64_t expert) { return offset(expert + 1); },
      [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
        const std::int64_t panel_words = pairs(offset(expert + 1) - offset(expert)) * kTileColumns;
        std::uint32_t* to = packed + first_pair[static_cast<std::size_t>(expert)] * panels * kTileColumns +
                            (first - offset(expert)) / 2 * kTileColumns;
        for (std::int64_t column = 0; column < k; column += kTileColumns, to += panel_words) {
          pack_right(x + first * k + column, k, last - first, std::min(kTileColumns, k - column), to);
        }
      });
}

bool streams(const TensorView& dweights) {
  constexpr std::uintptr_t kLineBytes = 64;
  return dweights.elements() * static_cast<std::int64_t>(sizeof(float)) >= kStreamedBytes &&
         reinterpret_cast<std::uintptr_t>(dweights.raw()) % kLineBytes == 0 &&
         dweights.extent(2) * sizeof(float) % kLineBytes == 0;
}

template <class Output, class Input>
void add_weight_gradients(Context& ctx, const Bf16GroupedGemmWeightGradientArgs& args, const Output* dy,
                          const Input* x) {
  const std::int64_t n = args.dweights.extent(1);
  const std::int64_t k = args.dweights.extent(2);
  const std::int64_t experts = args.dweights.extent(0);
  const std::int64_t panels = ceil_div(k, kTileColumns);
  float* dweights = args.dweights.data<float>();
  // Tiles that are visited again are better off in the cache.
  const auto first_write = [&, streamed = streams(args.dweights)](std::int64_t rows) {
    if (args.accumulate) return Write::kAdd;
    return streamed && rows <= kSumRows ? Write::kStream : Write::kAssign;
  };
  const Arena::Mark mark(*ctx.arena);

  const std::span<std::int64_t> first_pair =
      ctx.arena->allocate({experts + 1}, DType::kInt64).values<std::int64_t>();
  first_pair[0] = 0;
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
    first_pair[e + 1] = first_pair[e] + pairs(args.offsets[e + 1] - args.offsets[e]);
  }
  const TensorView packed =
      ctx.arena->allocate({first_pair.back() * panels * kTileColumns * 2}, DType::kBFloat16);
  pack_rows_of_experts(x, k, args.offsets, first_pair, words(packed));

  const ThreadScratch scratch(*ctx.arena, LeftBlock::words(kBlockRows, kSumRows));
  for_each_block(
      experts, kBlockRows, [](std::int64_t) { return std::int64_t{0}; }, [&](std::int64_t) { return n; },
      [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
        const auto e = static_cast<std::size_t>(expert);
        const std::int64_t rows = args.offsets[e + 1] - args.offsets[e];
        if (rows == 0 && !args.accumulate) {
          std::fill(dweights + (expert * n + first) * k, dweights + (expert * n + last) * k, 0.0F);
        }
        for (std::int64_t row = 0; row < rows; row += kSumRows) {
          const std::int64_t summed = std::min(kSumRows, rows - row);
          const LeftBlock left(scratch.of_this_thread(), last - first, summed);
          left.fill([&](std::int64_t column, std::int64_t columns, std::uint32_t* panel) {
            pack_left_transposed(dy + (args.offsets[e] + row) * n + first + column, n, columns, summed,
                                 panel);
          });
          const std::uint32_t* right = words(packed) + (first_pair[e] * panels + row / 2) * kTileColumns;
          const Write write = row > 0 ? Write::kAdd : first_write(rows);
          for (std::int64_t column = 0; column < k; column += kTileColumns) {
            left.multiply(right, std::min(kTileColumns, k - column), write,
                          dweights + (expert * n + first) * k + column, k);
            right += pairs(rows) * kTileColumns;
          }
          if (write == Write::kStream) end_streams();
        }
      });
}

static_assert(kRowsPackedAtOnce == kTileColumns, "the rows are a panel of a transposed matrix");

// Rows of a matrix [all_rows, columns] -> their places in its panels. They are whole pairs, or the last ones.
template <class Element>
void pack_rows_of(const Element* matrix, std::int64_t all_rows, std::int64_t columns, Range rows,
                  bool transpose, std::uint32_t* packed) {
  const Element* from = matrix + rows.begin * columns;
  if (transpose) {
    pack_right_transposed(from, columns, columns, rows.size(), packed + rows.begin * pairs(columns));
    return;
  }
  std::uint32_t* to = packed + rows.begin / 2 * kTileColumns;
  for (std::int64_t column = 0; column < columns; column += kTileColumns) {
    pack_right(from + column, columns, rows.size(), std::min(kTileColumns, columns - column), to);
    to += pairs(all_rows) * kTileColumns;
  }
}

template <class Element>
void pack_matrices(const PackRightSideArgs& args, const Element* matrices) {
  const std::int64_t rows = args.matrices.extent(1);
  const std::int64_t columns = args.matrices.extent(2);
  const std::int64_t blocks = ceil_div(rows, kRowsPackedAtOnce);
  const std::int64_t matrix_words = args.packed.extent(1) / 2;
#pragma omp parallel for schedule(static)
  for (std::int64_t item = 0; item < args.matrices.extent(0) * blocks; ++item) {
    const std::int64_t matrix = item / blocks;
    const std::int64_t first = item % blocks * kRowsPackedAtOnce;
    pack_rows_of(matrices + matrix * rows * columns, rows, columns,
                 {first, std::min(first + kRowsPackedAtOnce, rows)}, args.transpose,
                 words(args.packed) + matrix * matrix_words);
  }
}

}  // namespace

void pack_right_side(const PackRightSideArgs& args) {
  visit_elements(args.matrices, [&](const auto* matrices) { pack_matrices(args, matrices); });
}

void pack_rows_of_right_side(const PackRowsArgs& args) {
  visit_elements(args.matrix, [&](const auto* matrix) {
    pack_rows_of(matrix, args.matrix.extent(0), args.matrix.extent(1), args.rows, args.transpose,
                 words(args.packed));
  });
}

void bf16_grouped_gemm(Context& ctx, const Bf16GroupedGemmArgs& args) {
  visit_elements(args.x, [&](const auto* x) {
    visit_elements(args.y, [&](auto* y) { multiply_groups(ctx, args, x, y); });
  });
}

void bf16_grouped_gemm_weight_gradient(Context& ctx, const Bf16GroupedGemmWeightGradientArgs& args) {
  visit_elements(args.dy, [&](const auto* dy) {
    visit_elements(args.x, [&](const auto* x) { add_weight_gradients(ctx, args, dy, x); });
  });
}

}  // namespace conclave::cpu
