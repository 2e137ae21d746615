// The products behind the three functions of layers/ops/grouped_gemm as the kernels see them. Forward and
// input gradient are one: rows of a group times its matrix, which lies one way or the other.
#pragma once

#include <cstdint>

#include "layers/cuda/elements.cuh"
#include "layers/cuda/kernels.h"

namespace conclave::cuda {

// results[r] = M[e] left[r] for the rows r of each group e, M[e] [columns, inner].
template <class Element>
struct RowsProduct {
  const std::int64_t* offsets;  // [groups + 1]
  std::int64_t groups;
  std::int64_t rows;     // at least offsets[groups]
  std::int64_t columns;  // of the results
  std::int64_t inner;
  const Element* left;     // [rows, inner]
  const Element* weights;  // [groups, columns, inner]; across: [groups, inner, columns]
  bool weights_lie_across;
  Elements results;  // [rows, columns]
};

// dweights[e] = or += sum over the rows r of group e of dy[r] x[r]^T.
template <class Element>
struct OuterProducts {
  const std::int64_t* offsets;  // [groups + 1]
  std::int64_t groups;
  std::int64_t outputs;
  std::int64_t inputs;
  const Element* dy;  // [rows, outputs]
  const Element* x;   // [rows, inputs]
  float* dweights;    // [groups, outputs, inputs]
  bool accumulate;
};

// By multiply-adds in fp32 (grouped_gemm_fp32_cuda.cu).
void multiply_rows(StreamHandle stream, const RowsProduct<float>& product);
void sum_outer_products(StreamHandle stream, const OuterProducts<float>& product);

// By tensor cores, with sums in fp32 (grouped_gemm_bf16_cuda.cu).
void multiply_rows(StreamHandle stream, const RowsProduct<Bf16>& product);
void sum_outer_products(StreamHandle stream, const OuterProducts<Bf16>& product);

// Groups with fewer rows on average are cut into small tiles, which waste less of the tensor cores on rows
// that aren't there; large ones read the weights less often. Results are the same.
inline bool has_few_rows(std::int64_t rows, std::int64_t groups) { return rows < 64 * groups; }

// Extents of a tile that ends at most at `extent`.
__device__ inline int extent_of_tile(std::int64_t extent, std::int64_t first, int of_whole_tile) {
  return static_cast<int>(extent - first < of_whole_tile ? extent - first : of_whole_tile);
}

inline std::int64_t tiles_for(std::int64_t extent, std::int64_t of_tile) {
  return (extent + of_tile - 1) / of_tile;
}

}  // namespace conclave::cuda
