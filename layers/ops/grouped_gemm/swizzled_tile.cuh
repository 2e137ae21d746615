// Tiles of bf16 matrices in shared memory, in the order in which tensor cores read them without two lanes
// meeting in a bank.
//
// A tile is cut into panels of 64 columns, panel after panel; within one, rows lie 128 bytes apart, and the
// 16-byte chunk c of row r stands at place c ^ (r % 8) of its row. So the chunks c of eight consecutive rows,
// which an 8 x 8 matrix of ldmatrix consists of, cover all banks once. It is also the order that wgmma knows
// as 128-byte swizzling, for tiles at multiples of 1024 bytes.
#pragma once

#include <cstdint>

#include "layers/cuda/elements.cuh"
#include "layers/cuda/mma.cuh"

namespace conclave::cuda {

inline constexpr int kChunk = 8;   // elements of 16 bytes
inline constexpr int kPanel = 64;  // columns: elements of 128 bytes
inline constexpr int kChunksOfPanel = kPanel / kChunk;

struct alignas(16) ChunkOfBf16 {
  Bf16 elements[kChunk];
};

template <int kRows_, int kColumns_>
struct SwizzledTile {
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kElements = kRows * kColumns;
  static_assert(kColumns % kPanel == 0 && kRows % 8 == 0);

  // Where a chunk starts, in elements from the tile's own start.
  __device__ static int place(int row, int chunk) {
    return chunk / kChunksOfPanel * (kRows * kPanel) + row * kPanel +
           ((chunk % kChunksOfPanel) ^ (row % 8)) * kChunk;
  }
};

// `rows` rows of at most `columns` elements each, `stride` elements apart, into `tile`, by all kThreads
// threads of the block; the rest of the tile becomes zero, and what lies there isn't read. Chunks must be
// whole and aligned. They are copied asynchronously: they end with the thread's group of copies.
template <class Tile, int kThreads>
__device__ void load_aligned_tile(Bf16* tile, const Bf16* first, std::int64_t stride, int rows, int columns) {
  constexpr int kChunksOfRow = Tile::kColumns / kChunk;
  constexpr int kRowsAtOnce = kThreads / kChunksOfRow;
  static_assert(kThreads % kChunksOfRow == 0 && Tile::kRows % kRowsAtOnce == 0);
  const int chunk = static_cast<int>(threadIdx.x) % kChunksOfRow;
  const int first_row = static_cast<int>(threadIdx.x) / kChunksOfRow;
  const int rows_of_chunk = chunk * kChunk < columns ? rows : 0;
  const Bf16* from = first + first_row * stride + chunk * kChunk;
#pragma unroll
  for (int i = 0; i < Tile::kRows / kRowsAtOnce; ++i) {
    const int row = i * kRowsAtOnce + first_row;
    const bool is_within = row < rows_of_chunk;
    copy_async_16(tile + Tile::place(row, chunk), is_within ? from + i * kRowsAtOnce * stride : first,
                  is_within ? 16 : 0);
  }
}

// The same of a matrix whose chunks lie anywhere: slower, and there once this returns.
template <class Tile, int kThreads>
__device__ void load_unaligned_tile(Bf16* tile, const Bf16* first, std::int64_t stride, int rows,
                                    int columns) {
  constexpr int kChunksOfRow = Tile::kColumns / kChunk;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * kChunksOfRow; i += kThreads) {
    const int row = i / kChunksOfRow;
    const int chunk = i % kChunksOfRow;
    ChunkOfBf16 elements;
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      const int column = chunk * kChunk + j;
      elements.elements[j] = row < rows && column < columns ? first[row * stride + column] : Bf16{0};
    }
    *reinterpret_cast<ChunkOfBf16*>(tile + Tile::place(row, chunk)) = elements;
  }
}

}  // namespace conclave::cuda
