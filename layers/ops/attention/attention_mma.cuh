// Attention on tensor cores (layers/cuda/mma.cuh), for bf16 factors: FlashAttention-2 in structure (Dao,
// 2023). Scores, weights and sums stay in the registers of the warp that computes them: a warp has 16
// kRowTiles rows (queries, or keys for their gradients) and walks over the other side in tiles that the
// whole block loads. What one product leaves in registers as its sums is, rounded, laid out as the left
// factor of the next.
//
// The fp32 operands are first packed: rounded to bf16 once, in place of once for every tile that reads them,
// and widened with zeros to one of a few widths. All loads are then asynchronous copies of 16 aligned bytes,
// whatever the head_dim.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/mma.cuh"
#include "layers/ops/attention/attention_blocks.cuh"

namespace conclave::cuda::mma {

// On the host: the entries of kernels.h for problems in bf16.
std::int64_t attention_forward_scratch_bytes(const AttentionProblem& problem);
std::int64_t attention_backward_scratch_bytes(const AttentionProblem& problem);
void attention_forward(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                       const float* v, const std::uint8_t* padding, float* y, float* log_sum_exp,
                       void* scratch);
void attention_backward(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                        const float* v, const std::uint8_t* padding, const float* y, const float* log_sum_exp,
                        const float* dy, float* dq, float* dk, float* dv, void* scratch);

// Packed widths.
template <int kWidth>
struct Width {
  static constexpr int value = kWidth;
};
template <class Function>
void with_width(std::int64_t head_dim, Function function) {
  if (head_dim <= 32) {
    function(Width<32>());
  } else if (head_dim <= 64) {
    function(Width<64>());
  } else if (head_dim <= 96) {
    function(Width<96>());
  } else if (head_dim <= 128) {
    function(Width<128>());
  } else if (head_dim <= 192) {
    function(Width<192>());
  } else {
    function(Width<kMaxHeadDim>());
  }
}

// Operands as [tokens, heads, width].
struct PackedHeads {
  Bf16* q;
  Bf16* k;
  Bf16* v;
  Bf16* dy;  // of backward
};
std::int64_t packed_bytes(const AttentionProblem& problem, bool with_dy);
// Enqueues the packing into `scratch`; dy null: none.
PackedHeads pack(StreamHandle stream, const AttentionProblem& problem, const float* q, const float* k,
                 const float* v, const float* dy, void* scratch);

// From here on within kernels.
inline constexpr int kWarpsOfBlock = 4;
inline constexpr int kThreadsOfBlock = kWarpsOfBlock * kWarp;
inline constexpr float kLog2E = 1.4426950408889634F;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

// Where element i of a fragment of sums lies within its 16 x 8.
__device__ inline int row_of_sum(int i) { return lane() / 4 + i / 2 * 8; }
__device__ inline int column_of_sum(int i) { return lane() % 4 * 2 + i % 2; }

// Packed rows in shared memory. A row is followed by 16 bytes of nothing: the distance of two rows is then an
// odd number of 16 bytes, and the eight rows that an instruction reads lie in different banks.
template <int kWidth>
struct Tile {
  static constexpr int kStride = kWidth + 8;
  static constexpr std::size_t bytes(int rows) { return sizeof(Bf16) * kStride * rows; }

  Bf16* elements;

  __device__ Bf16* at(int row, int column) const { return elements + row * kStride + column; }
  __device__ Tile from(int row) const { return {at(row, 0)}; }
};

// Begins to copy the kRows rows from `first` on, zeros from row `count` on.
template <int kRows, int kWidth>
__device__ void fill(Tile<kWidth> tile, Rows<const Bf16> rows, int first, int count) {
  constexpr int kPieces = kWidth / 8;  // of 16 bytes, in a row
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kThreadsOfBlock % kPieces == 0) {  // a thread stays in its column
    constexpr int kRowsAtOnce = kThreadsOfBlock / kPieces;
    static_assert(kRows % kRowsAtOnce == 0);
    const int column = thread % kPieces * 8;
    Bf16* to = tile.at(thread / kPieces, column);
    const Bf16* from = rows.at(first + thread / kPieces) + column;
#pragma unroll 1
    for (int row = first + thread / kPieces; row < first + kRows; row += kRowsAtOnce) {
      const bool exists = row < count;
      copy_async_16(to, exists ? from : rows.first, exists ? 16 : 0);
      to += kRowsAtOnce * tile.kStride;
      from += kRowsAtOnce * rows.stride;
    }
  } else {
#pragma unroll 1
    for (int i = thread; i < kRows * kPieces; i += kThreadsOfBlock) {
      const int row = first + i / kPieces;
      const int column = i % kPieces * 8;
      const bool exists = row < count;
      copy_async_16(tile.at(i / kPieces, column), rows.at(exists ? row : 0) + column, exists ? 16 : 0);
    }
  }
}

// sums [16 kRowTiles, 8 kColumnTiles] += left right^T, of the rows from first_left and first_right on.
template <int kRowTiles, int kColumnTiles, int kWidth>
__device__ void multiply_by_transposed(float (&sums)[kRowTiles][kColumnTiles][4], Tile<kWidth> left,
                                       int first_left, Tile<kWidth> right, int first_right) {
  const Bf16* left_rows = left.at(first_left + lane() % 16, lane() / 16 * 8);
  const Bf16* right_rows = right.at(first_right + lane() / 16 * 8 + lane() % 8, lane() / 8 % 2 * 8);
#pragma unroll
  for (int d = 0; d < kWidth; d += 16) {
    unsigned a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) load_matrices(a[r], left_rows + 16 * r * left.kStride + d);
#pragma unroll
    for (int c = 0; c < kColumnTiles; c += 2) {
      unsigned b[4];
      load_matrices(b, right_rows + 8 * c * right.kStride + d);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        mma_m16n8k16(sums[r][c], a[r], {b[0], b[1]});
        mma_m16n8k16(sums[r][c + 1], a[r], {b[2], b[3]});
      }
    }
  }
}

// Sums, rounded to bf16, as the left factor of 16 columns a step.
template <int kRowTiles, int kSteps>
struct Left {
  unsigned fragments[kSteps][kRowTiles][4];
};
template <int kRowTiles, int kColumnTiles>
__device__ Left<kRowTiles, kColumnTiles / 2> as_left(const float (&sums)[kRowTiles][kColumnTiles][4]) {
  Left<kRowTiles, kColumnTiles / 2> left;
#pragma unroll
  for (int k = 0; k < kColumnTiles / 2; ++k) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = sums[r][2 * k + i / 2];
        left.fragments[k][r][i] = pack_bf16(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
  }
  return left;
}

// sums [16 kRowTiles, kWidth] += left [16 kRowTiles, 16 kSteps] right, of the rows from first_right on.
template <int kRowTiles, int kSteps, int kWidth>
__device__ void multiply(float (&sums)[kRowTiles][kWidth / 8][4], const Left<kRowTiles, kSteps>& left,
                         Tile<kWidth> right, int first_right) {
  const Bf16* right_rows = right.at(first_right + lane() % 16, lane() / 16 * 8);
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int c = 0; c < kWidth / 8; c += 2) {
      unsigned b[4];
      load_transposed_matrices(b, right_rows + 16 * k * right.kStride + 8 * c);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        mma_m16n8k16(sums[r][c], left.fragments[k][r], {b[0], b[1]});
        mma_m16n8k16(sums[r][c + 1], left.fragments[k][r], {b[2], b[3]});
      }
    }
  }
}

// Scores [16 kRowTiles queries, 8 kColumnTiles keys] of keys that their query does not see become -inf.
template <int kRowTiles, int kColumnTiles>
__device__ void hide_invisible(float (&scores)[kRowTiles][kColumnTiles][4], const AttentionProblem& p,
                               const std::uint8_t* padding, int first_query, int first_key) {
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int end = keys_seen(p, first_query + 16 * r + row_of_sum(i)) - first_key;
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        const int column = 8 * c + column_of_sum(i);
        if (column >= end) scores[r][c][i] = -INFINITY;
        if (column + 1 >= end) scores[r][c][i + 1] = -INFINITY;
      }
    }
  }
  if (padding == nullptr) return;
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = first_key + 8 * c + column_of_sum(i);
      if (key >= keys_of(p) || padding[key] == 0) continue;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) scores[r][c][i] = scores[r][c][i + 2] = -INFINITY;
    }
  }
}

// Writes the warp's sums to the rows from `first` on, as far as there are `count`.
template <int kRowTiles, int kColumnTiles>
__device__ void store(const float (&sums)[kRowTiles][kColumnTiles][4], Rows<float> rows, int first, int count,
                      int head_dim) {
  const bool in_pairs =
      head_dim % 2 == 0 && reinterpret_cast<std::uintptr_t>(rows.first) % sizeof(float2) == 0;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int row = first + 16 * r + row_of_sum(i);
      if (row >= count) continue;
      float* to = rows.at(row);
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        const int column = 8 * c + column_of_sum(i);
        if (in_pairs && column < head_dim) {
          *reinterpret_cast<float2*>(to + column) = {sums[r][c][i], sums[r][c][i + 1]};
        } else {
          if (column < head_dim) to[column] = sums[r][c][i];
          if (column + 1 < head_dim) to[column + 1] = sums[r][c][i + 1];
        }
      }
    }
  }
}

}  // namespace conclave::cuda::mma
