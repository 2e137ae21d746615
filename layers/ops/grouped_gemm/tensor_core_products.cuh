// Grouped products of bf16 by tensor cores: resident blocks that walk over tiles of the result and add, step
// by step of the inner extent, products of two tiles in shared memory, while the tiles of later steps are on
// their way.
//
// The inner extent isn't shared out, so that a result is one sum, taken in an order that neither other rows
// nor the tile's place have a say in. What tiles have beyond the matrix is zero.
//
// How two tiles are multiplied is the Core's business, an object of each thread for one tile of the result:
//
//   kTileRows, kTileColumns, kThreads, kBlocks (of a multiprocessor)
//   kStages           tiles of that many steps have room in shared memory
//   kStepsUnderWay    how many steps before the newest may still be reading theirs after add() has returned
//   Core(rows, columns)                       of the tile that exist
//   wait_for_tiles<kUnderWay>()               until all but the last kUnderWay loads of this thread are there
//   add<kLeftAcross, kRightAcross>(left, right, inner)   the products of two tiles, of which `inner` count
//   finish()                                  until the sums are complete
//   for_each_pair(function)                   function(row, column, sum, sum of column + 1) for all of its
//   own
#pragma once

#include <type_traits>

#include "layers/cuda/launch.cuh"
#include "layers/ops/grouped_gemm/grouped_products.cuh"
#include "layers/ops/grouped_gemm/row_tiles.cuh"
#include "layers/ops/grouped_gemm/swizzled_tile.cuh"

namespace conclave::cuda {

inline constexpr int kInner = kPanel;  // of a step

// A factor of one tile's product: kVectors rows of the left one or columns of the right one, of `inner`
// elements each. Those lie side by side in memory, or across: one row of memory holds an element of each.
template <bool kAcross, int kVectors>
struct Factor {
  using Tile = std::conditional_t<kAcross, SwizzledTile<kInner, kVectors>, SwizzledTile<kVectors, kInner>>;

  const Bf16* first;
  std::int64_t stride;  // of rows of memory
  int vectors;          // that exist
  bool is_aligned;

  template <int kThreads>
  __device__ void load(Bf16* tile, std::int64_t first_inner, int inner) const {
    const Bf16* from = first + first_inner * (kAcross ? stride : 1);
    const int rows = kAcross ? inner : vectors;
    const int columns = kAcross ? vectors : inner;
    if (is_aligned) {
      load_aligned_tile<Tile, kThreads>(tile, from, stride, rows, columns);
    } else {
      load_unaligned_tile<Tile, kThreads>(tile, from, stride, rows, columns);
    }
  }
};

template <bool kLeftAcross, bool kRightAcross, class Core>
__device__ void add_products(Core& core, const Factor<kLeftAcross, Core::kTileRows>& left,
                             const Factor<kRightAcross, Core::kTileColumns>& right, std::int64_t inner,
                             Bf16* stages) {
  constexpr int kElementsOfLeft = Core::kTileRows * kInner;
  constexpr int kElementsOfStage = kElementsOfLeft + Core::kTileColumns * kInner;
  constexpr int kStepsAhead = Core::kStages - 1 - Core::kStepsUnderWay;
  static_assert(kStepsAhead > 0);
  const int steps = static_cast<int>((inner + kInner - 1) / kInner);
  const auto stage_of = [&](int step) { return stages + step % Core::kStages * kElementsOfStage; };
  const auto inner_of = [&](int step) {
    return extent_of_tile(inner, static_cast<std::int64_t>(step) * kInner, kInner);
  };
  const auto load = [&](int step) {
    if (step < steps) {
      const std::int64_t first = static_cast<std::int64_t>(step) * kInner;
      left.template load<Core::kThreads>(stage_of(step), first, inner_of(step));
      right.template load<Core::kThreads>(stage_of(step) + kElementsOfLeft, first, inner_of(step));
    }
    commit_copies();
  };

  __syncthreads();  // all have read the stages of the tile before
  for (int step = -kStepsAhead; step < steps; ++step) {
    if (step >= 0) {
      Core::template wait_for_tiles<kStepsAhead - 1>();
      __syncthreads();  // and those of the other threads; all are done with the stage that is loaded next
    }
    load(step + kStepsAhead);
    if (step < 0) continue;
    core.template add<kLeftAcross, kRightAcross>(stage_of(step), stage_of(step) + kElementsOfLeft,
                                                 inner_of(step));
  }
  core.finish();
}

// Two neighbours of a result, of which `exist` are within the matrix.
__device__ inline void store_pair(Elements results, std::int64_t at, int exist, bool as_pair, float low,
                                  float high) {
  if (exist <= 0) return;
  if (results.dtype == DType::kBFloat16) {
    Bf16* to = static_cast<Bf16*>(results.data) + at;
    if (as_pair) {
      *reinterpret_cast<unsigned*>(to) = pack_bf16(low, high);
    } else {
      set(to[0], low);
      if (exist > 1) set(to[1], high);
    }
  } else {
    float* to = static_cast<float*>(results.data) + at;
    if (as_pair) {
      *reinterpret_cast<float2*>(to) = float2{low, high};
    } else {
      to[0] = low;
      if (exist > 1) to[1] = high;
    }
  }
}

struct Alignment {
  bool left;    // whole chunks are aligned
  bool right;   // likewise
  bool result;  // pairs are aligned
};

template <class Core, bool kAcross>
__global__ void __launch_bounds__(Core::kThreads, Core::kBlocks)
    multiply_rows_kernel(const RowsProduct<Bf16> p, const Alignment is_aligned) {
  auto* stages = reinterpret_cast<Bf16*>(shared_memory());
  RowTiles<Core::kTileRows> tiles(p.offsets, p.groups,
                                  (p.columns + Core::kTileColumns - 1) / Core::kTileColumns);
  RowTile tile;
  for (std::int64_t number = blockIdx.x; tiles.find(number, tile); number += gridDim.x) {
    const std::int64_t first_column = tile.column_tile * Core::kTileColumns;
    const int columns = extent_of_tile(p.columns, first_column, Core::kTileColumns);
    const std::int64_t stride = kAcross ? p.columns : p.inner;
    const Factor<false, Core::kTileRows> left{p.left + tile.first_row * p.inner, p.inner, tile.rows,
                                              is_aligned.left};
    const Factor<kAcross, Core::kTileColumns> right{
        p.weights + tile.group * p.columns * p.inner + first_column * (kAcross ? 1 : stride), stride, columns,
        is_aligned.right};
    Core core(tile.rows, columns);
    add_products(core, left, right, p.inner, stages);
    core.for_each_pair([&](int row, int column, float low, float high) {
      if (row >= tile.rows) return;
      store_pair(p.results, (tile.first_row + row) * p.columns + first_column + column, columns - column,
                 is_aligned.result, low, high);
    });
  }
}

template <class Core>
__global__ void __launch_bounds__(Core::kThreads, Core::kBlocks)
    sum_outer_products_kernel(const OuterProducts<Bf16> p, const Alignment is_aligned) {
  auto* stages = reinterpret_cast<Bf16*>(shared_memory());
  const std::int64_t row_tiles = (p.outputs + Core::kTileRows - 1) / Core::kTileRows;
  const std::int64_t column_tiles = (p.inputs + Core::kTileColumns - 1) / Core::kTileColumns;
  for (std::int64_t number = blockIdx.x; number < p.groups * row_tiles * column_tiles; number += gridDim.x) {
    const std::int64_t group = number / (row_tiles * column_tiles);
    const std::int64_t begin = p.offsets[group];
    const std::int64_t end = p.offsets[group + 1];
    if (begin == end && p.accumulate) continue;
    const std::int64_t first_row = number % row_tiles * Core::kTileRows;
    const std::int64_t first_column = number / row_tiles % column_tiles * Core::kTileColumns;
    const int rows = extent_of_tile(p.outputs, first_row, Core::kTileRows);
    const int columns = extent_of_tile(p.inputs, first_column, Core::kTileColumns);
    const Factor<true, Core::kTileRows> left{p.dy + begin * p.outputs + first_row, p.outputs, rows,
                                             is_aligned.left};
    const Factor<true, Core::kTileColumns> right{p.x + begin * p.inputs + first_column, p.inputs, columns,
                                                 is_aligned.right};
    Core core(rows, columns);
    add_products(core, left, right, end - begin, stages);
    float* dweights = p.dweights + (group * p.outputs + first_row) * p.inputs + first_column;
    core.for_each_pair([&](int row, int column, float low, float high) {
      if (row >= rows || column >= columns) return;
      float* to = dweights + row * p.inputs + column;
      const bool has_two = column + 1 < columns;
      if (p.accumulate) {
        low += to[0];
        if (has_two) high += to[1];
      }
      store_pair({to, DType::kFloat32}, 0, columns - column, is_aligned.result, low, high);
    });
  }
}

// On the host.
inline bool has_aligned_chunks(const Bf16* matrix, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(matrix) % sizeof(ChunkOfBf16) == 0 && stride % kChunk == 0;
}
inline bool has_aligned_pairs(Elements matrix, std::int64_t stride) {
  const std::size_t bytes = matrix.dtype == DType::kBFloat16 ? sizeof(unsigned) : sizeof(float2);
  return reinterpret_cast<std::uintptr_t>(matrix.data) % bytes == 0 && stride % 2 == 0;
}

template <class Core>
constexpr std::size_t stage_bytes() {
  return sizeof(Bf16) * Core::kStages * (Core::kTileRows + Core::kTileColumns) * kInner;
}

template <class Core>
void launch_multiply_rows(StreamHandle stream, const RowsProduct<Bf16>& p) {
  const std::int64_t tiles =
      most_row_tiles(p.rows, p.groups, Core::kTileRows) * tiles_for(p.columns, Core::kTileColumns);
  const Alignment is_aligned{
      .left = has_aligned_chunks(p.left, p.inner),
      .right = has_aligned_chunks(p.weights, p.weights_lie_across ? p.columns : p.inner) &&
               p.columns * p.inner % kChunk == 0,
      .result = has_aligned_pairs(p.results, p.columns)};
  launch_resident("grouped gemm", stream, tiles, Core::kThreads, stage_bytes<Core>(),
                  p.weights_lie_across ? multiply_rows_kernel<Core, true> : multiply_rows_kernel<Core, false>,
                  p, is_aligned);
}

template <class Core>
void launch_sum_outer_products(StreamHandle stream, const OuterProducts<Bf16>& p) {
  const std::int64_t tiles =
      p.groups * tiles_for(p.outputs, Core::kTileRows) * tiles_for(p.inputs, Core::kTileColumns);
  const Alignment is_aligned{.left = has_aligned_chunks(p.dy, p.outputs),
                             .right = has_aligned_chunks(p.x, p.inputs),
                             .result = has_aligned_pairs({p.dweights, DType::kFloat32}, p.inputs)};
  launch_resident("grouped gemm dW", stream, tiles, Core::kThreads, stage_bytes<Core>(),
                  sum_outer_products_kernel<Core>, p, is_aligned);
}

}  // namespace conclave::cuda
