// Grouped products in fp32 by multiply-adds: the mode that others are compared with. Each sum is taken in the
// order of the inner extent, one term after the other.
//
// A block of 256 threads computes a tile of results from slices of kSlice inner elements, which two buffers
// of shared memory hold in turn: while one is multiplied, the next is on its way through registers. A thread
// has rows and columns in runs of four that are 64 apart, so that a warp reads few banks at once.
#include "layers/cuda/launch.cuh"
#include "layers/ops/grouped_gemm/grouped_products.cuh"
#include "layers/ops/grouped_gemm/row_tiles.cuh"

namespace conclave::cuda {
namespace {

constexpr int kSlice = 16;
constexpr int kTileColumns = 128;
constexpr int kThreadsOfSide = 16;
constexpr int kThreadsOfBlock = kThreadsOfSide * kThreadsOfSide;

// kVectors rows of the left factor or columns of the right one, of `inner` elements each: side by side in
// memory, or across, where a row of memory holds an element of each.
template <int kVectors, bool kAcross>
struct Factor {
  const float* first;
  std::int64_t stride;  // of rows of memory
  int vectors;          // that exist

  // In shared memory: [kSlice][kPadded], each run of four aligned.
  static constexpr int kPadded = kVectors + 4;
  static constexpr int kElementsOfThread = kVectors * kSlice / kThreadsOfBlock;

  // Element i of this thread: of which vector and of which inner element. Neighbours in memory go to
  // neighbouring threads.
  __device__ static int vector_of(int i) {
    const int at = i * kThreadsOfBlock + static_cast<int>(threadIdx.x);
    return kAcross ? at % kVectors : at / kSlice;
  }
  __device__ static int inner_of(int i) {
    const int at = i * kThreadsOfBlock + static_cast<int>(threadIdx.x);
    return kAcross ? at / kVectors : at % kSlice;
  }

  // Zeros for what doesn't exist.
  __device__ void load(float (&elements)[kElementsOfThread], std::int64_t first_inner,
                       std::int64_t inner) const {
#pragma unroll
    for (int i = 0; i < kElementsOfThread; ++i) {
      const int vector = vector_of(i);
      const std::int64_t at = first_inner + inner_of(i);
      elements[i] = vector < vectors && at < inner
                        ? first[kAcross ? at * stride + vector : vector * stride + at]
                        : 0.0F;
    }
  }
  __device__ static void store(float* slice, const float (&elements)[kElementsOfThread]) {
#pragma unroll
    for (int i = 0; i < kElementsOfThread; ++i) slice[inner_of(i) * kPadded + vector_of(i)] = elements[i];
  }
};

// The thread's part of one side of a tile: in runs of kRun.
template <int kVectors>
struct Part {
  static constexpr int kCount = kVectors / kThreadsOfSide;
  static constexpr int kRun = kCount < 4 ? kCount : 4;

  __device__ static int vector(int thread, int i) {
    return i / kRun * (kThreadsOfSide * kRun) + thread * kRun + i % kRun;
  }
};

template <int kTileRows>
struct Sums {
  using Rows = Part<kTileRows>;
  using Columns = Part<kTileColumns>;
  float values[Rows::kCount][Columns::kCount] = {};

  __device__ static int row(int i) { return Rows::vector(static_cast<int>(threadIdx.x) / kThreadsOfSide, i); }
  __device__ static int column(int j) {
    return Columns::vector(static_cast<int>(threadIdx.x) % kThreadsOfSide, j);
  }

  // One slice of each factor, as store() left them.
  __device__ void add(const float* left, int left_stride, const float* right, int right_stride) {
#pragma unroll 4
    for (int k = 0; k < kSlice; ++k) {
      float a[Rows::kCount];
      float b[Columns::kCount];
#pragma unroll
      for (int i = 0; i < Rows::kCount; ++i) a[i] = left[k * left_stride + row(i)];
#pragma unroll
      for (int j = 0; j < Columns::kCount; ++j) b[j] = right[k * right_stride + column(j)];
#pragma unroll
      for (int i = 0; i < Rows::kCount; ++i) {
#pragma unroll
        for (int j = 0; j < Columns::kCount; ++j) values[i][j] += a[i] * b[j];
      }
    }
  }

  template <class Function>
  __device__ void for_each(int rows, int columns, Function function) const {
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) {
      if (row(i) >= rows) continue;
#pragma unroll
      for (int j = 0; j < Columns::kCount; ++j) {
        if (column(j) < columns) function(row(i), column(j), values[i][j]);
      }
    }
  }
};

template <int kTileRows>  // whichever way the factors lie
constexpr int kElementsOfBuffer = kSlice*(Factor<kTileRows, false>::kPadded +
                                          Factor<kTileColumns, false>::kPadded);

template <int kTileRows, bool kLeftAcross, bool kRightAcross>
__device__ void add_products(Sums<kTileRows>& sums, const Factor<kTileRows, kLeftAcross>& left,
                             const Factor<kTileColumns, kRightAcross>& right, std::int64_t inner) {
  using Left = Factor<kTileRows, kLeftAcross>;
  using Right = Factor<kTileColumns, kRightAcross>;
  float of_left[Left::kElementsOfThread];
  float of_right[Right::kElementsOfThread];
  if (inner > 0) {
    left.load(of_left, 0, inner);
    right.load(of_right, 0, inner);
  }
  __syncthreads();  // all have read the buffers of the tile before
  int buffer = 0;
  for (std::int64_t k = 0; k < inner; k += kSlice) {
    float* left_slice = shared_memory() + buffer * kElementsOfBuffer<kTileRows>;
    float* right_slice = left_slice + kSlice * Left::kPadded;
    Left::store(left_slice, of_left);
    Right::store(right_slice, of_right);
    __syncthreads();  // the other buffer is free, too: all are past its products
    if (k + kSlice < inner) {
      left.load(of_left, k + kSlice, inner);
      right.load(of_right, k + kSlice, inner);
    }
    sums.add(left_slice, Left::kPadded, right_slice, Right::kPadded);
    buffer = 1 - buffer;
  }
}

template <int kTileRows, bool kAcross>
__global__ void __launch_bounds__(kThreadsOfBlock) multiply_rows_kernel(const RowsProduct<float> p) {
  RowTiles<kTileRows> tiles(p.offsets, p.groups, (p.columns + kTileColumns - 1) / kTileColumns);
  RowTile tile;
  for (std::int64_t number = blockIdx.x; tiles.find(number, tile); number += gridDim.x) {
    const std::int64_t first_column = tile.column_tile * kTileColumns;
    const int columns = extent_of_tile(p.columns, first_column, kTileColumns);
    const std::int64_t stride = kAcross ? p.columns : p.inner;
    const Factor<kTileRows, false> left{p.left + tile.first_row * p.inner, p.inner, tile.rows};
    const Factor<kTileColumns, kAcross> right{
        p.weights + tile.group * p.columns * p.inner + first_column * (kAcross ? 1 : stride), stride,
        columns};
    Sums<kTileRows> sums;
    add_products(sums, left, right, p.inner);
    float* results = static_cast<float*>(p.results.data) + tile.first_row * p.columns + first_column;
    sums.for_each(tile.rows, columns,
                  [&](int row, int column, float sum) { results[row * p.columns + column] = sum; });
  }
}

template <int kTileRows>
__global__ void __launch_bounds__(kThreadsOfBlock) sum_outer_products_kernel(const OuterProducts<float> p) {
  const std::int64_t row_tiles = (p.outputs + kTileRows - 1) / kTileRows;
  const std::int64_t column_tiles = (p.inputs + kTileColumns - 1) / kTileColumns;
  for (std::int64_t number = blockIdx.x; number < p.groups * row_tiles * column_tiles; number += gridDim.x) {
    const std::int64_t group = number / (row_tiles * column_tiles);
    const std::int64_t begin = p.offsets[group];
    const std::int64_t end = p.offsets[group + 1];
    if (begin == end && p.accumulate) continue;
    const std::int64_t first_row = number % row_tiles * kTileRows;
    const std::int64_t first_column = number / row_tiles % column_tiles * kTileColumns;
    const int rows = extent_of_tile(p.outputs, first_row, kTileRows);
    const int columns = extent_of_tile(p.inputs, first_column, kTileColumns);
    const Factor<kTileRows, true> left{p.dy + begin * p.outputs + first_row, p.outputs, rows};
    const Factor<kTileColumns, true> right{p.x + begin * p.inputs + first_column, p.inputs, columns};
    Sums<kTileRows> sums;
    add_products(sums, left, right, end - begin);
    float* dweights = p.dweights + (group * p.outputs + first_row) * p.inputs + first_column;
    sums.for_each(rows, columns, [&](int row, int column, float sum) {
      float& to = dweights[row * p.inputs + column];
      to = p.accumulate ? to + sum : sum;
    });
  }
}

constexpr int kLargeTile = 128;
constexpr int kSmallTile = 32;

template <int kTileRows>
constexpr std::size_t kSharedBytes = 2 * sizeof(float) * kElementsOfBuffer<kTileRows>;

template <int kTileRows>
void launch_multiply_rows(StreamHandle stream, const RowsProduct<float>& p) {
  const std::int64_t tiles = most_row_tiles(p.rows, p.groups, kTileRows) * tiles_for(p.columns, kTileColumns);
  launch_resident(
      "grouped gemm", stream, tiles, kThreadsOfBlock, kSharedBytes<kTileRows>,
      p.weights_lie_across ? multiply_rows_kernel<kTileRows, true> : multiply_rows_kernel<kTileRows, false>,
      p);
}

}  // namespace

void multiply_rows(StreamHandle stream, const RowsProduct<float>& product) {
  if (has_few_rows(product.rows, product.groups)) {
    launch_multiply_rows<kSmallTile>(stream, product);
  } else {
    launch_multiply_rows<kLargeTile>(stream, product);
  }
}

void sum_outer_products(StreamHandle stream, const OuterProducts<float>& product) {
  const std::int64_t tiles =
      product.groups * tiles_for(product.outputs, kLargeTile) * tiles_for(product.inputs, kTileColumns);
  launch_resident("grouped gemm dW", stream, tiles, kThreadsOfBlock, kSharedBytes<kLargeTile>,
                  sum_outer_products_kernel<kLargeTile>, product);
}

}  // namespace conclave::cuda
