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
//   add<kLeftAcross, kRightAcross>(left, right)   the products of two tiles
//   finish()                                  until the sums are complete, and nothing is read any more
//   store_sums(tile, stride)                  all of its own into fp32 [kTileRows, stride]
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

// Of all stages.
template <class Core>
constexpr std::size_t kSharedBytes =
    sizeof(Bf16) * Core::kStages*(Core::kTileRows + Core::kTileColumns) * kInner;

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
    core.template add<kLeftAcross, kRightAcross>(stage_of(step), stage_of(step) + kElementsOfLeft);
  }
  core.finish();
}

// Four neighbours of a result, of which `exist` are within the matrix.
constexpr int kStoredAtOnce = 4;
__device__ inline void store_four(Elements results, std::int64_t at, int exist, bool at_once, bool accumulate,
                                  float4 sums) {
  if (results.dtype == DType::kBFloat16) {
    Bf16* to = static_cast<Bf16*>(results.data) + at;
    const uint2 packed{pack_bf16(sums.x, sums.y), pack_bf16(sums.z, sums.w)};
    if (at_once) {
      *reinterpret_cast<uint2*>(to) = packed;
      return;
    }
    const unsigned pairs[] = {packed.x, packed.y};
#pragma unroll
    for (int i = 0; i < kStoredAtOnce; ++i) {
      if (i < exist) to[i].bits = static_cast<std::uint16_t>(pairs[i / 2] >> (i % 2 * 16));
    }
  } else {
    float* to = static_cast<float*>(results.data) + at;
    if (at_once) {
      const float4 before = accumulate ? *reinterpret_cast<const float4*>(to) : float4{0, 0, 0, 0};
      *reinterpret_cast<float4*>(to) =
          float4{before.x + sums.x, before.y + sums.y, before.z + sums.z, before.w + sums.w};
      return;
    }
    const float values[] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
    for (int i = 0; i < kStoredAtOnce; ++i) {
      if (i < exist) to[i] = accumulate ? to[i] + values[i] : values[i];
    }
  }
}

// The sums of all threads as a tile of `results`, whose rows are `stride` elements apart: through shared
// memory, so that the block writes whole lines. `accumulate` is for fp32.
template <class Core>
__device__ void store_tile(Core& core, float* tile, Elements results, std::int64_t first, std::int64_t stride,
                           int rows, int columns, bool at_once, bool accumulate) {
  constexpr int kStride = Core::kTileColumns + 8;  // the pairs of half a warp meet all banks once
  static_assert(sizeof(float) * Core::kTileRows * kStride <= kSharedBytes<Core>);
  constexpr int kOfRow = Core::kTileColumns / kStoredAtOnce;
  __syncthreads();  // no stage is read any more
  core.store_sums(tile, kStride);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * kOfRow; i += Core::kThreads) {
    const int row = i / kOfRow;
    const int column = i % kOfRow * kStoredAtOnce;
    if (column >= columns) continue;
    store_four(results, first + row * stride + column, columns - column, at_once, accumulate,
               *reinterpret_cast<const float4*>(tile + row * kStride + column));
  }
}

struct Alignment {
  bool left;    // whole chunks are aligned
  bool right;   // likewise
  bool result;  // kStoredAtOnce elements are aligned, and rows consist of as many
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
    store_tile(core, shared_memory(), p.results, tile.first_row * p.columns + first_column, p.columns,
               tile.rows, columns, is_aligned.result, false);
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
    store_tile(core, shared_memory(), {p.dweights, DType::kFloat32},
               (group * p.outputs + first_row) * p.inputs + first_column, p.inputs, rows, columns,
               is_aligned.result, p.accumulate);
  }
}

// On the host.
inline bool has_aligned_chunks(const Bf16* matrix, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(matrix) % sizeof(ChunkOfBf16) == 0 && stride % kChunk == 0;
}
inline bool has_aligned_fours(Elements matrix, std::int64_t stride) {
  const std::size_t bytes = matrix.dtype == DType::kBFloat16 ? sizeof(uint2) : sizeof(float4);
  return reinterpret_cast<std::uintptr_t>(matrix.data) % bytes == 0 && stride % kStoredAtOnce == 0;
}

template <class Core>
void launch_multiply_rows(StreamHandle stream, const RowsProduct<Bf16>& p) {
  const std::int64_t tiles =
      most_row_tiles(p.rows, p.groups, Core::kTileRows) * tiles_for(p.columns, Core::kTileColumns);
  const Alignment is_aligned{
      .left = has_aligned_chunks(p.left, p.inner),
      .right = has_aligned_chunks(p.weights, p.weights_lie_across ? p.columns : p.inner) &&
               p.columns * p.inner % kChunk == 0,
      .result = has_aligned_fours(p.results, p.columns)};
  launch_resident("grouped gemm", stream, tiles, Core::kThreads, kSharedBytes<Core>,
                  p.weights_lie_across ? multiply_rows_kernel<Core, true> : multiply_rows_kernel<Core, false>,
                  p, is_aligned);
}

template <class Core>
void launch_sum_outer_products(StreamHandle stream, const OuterProducts<Bf16>& p) {
  const std::int64_t tiles =
      p.groups * tiles_for(p.outputs, Core::kTileRows) * tiles_for(p.inputs, Core::kTileColumns);
  const Alignment is_aligned{.left = has_aligned_chunks(p.dy, p.outputs),
                             .right = has_aligned_chunks(p.x, p.inputs),
                             .result = has_aligned_fours({p.dweights, DType::kFloat32}, p.inputs)};
  launch_resident("grouped gemm dW", stream, tiles, Core::kThreads, kSharedBytes<Core>,
                  sum_outer_products_kernel<Core>, p, is_aligned);
}

}  // namespace conclave::cuda
