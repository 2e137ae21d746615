// Grouped matrix products in bfloat16 with sums in fp32: what layers/ops/grouped_gemm does in fp32. A dense
// layer is a group of one.
//
// The right side of a product is packed once (weights: once an optimizer step) in the order that the inner
// loops read; the left side is packed on the way, from fp32 or bf16. Elements are rounded to bf16 to nearest,
// ties to even; subnormal numbers count as 0. Results do not depend on the number of OpenMP threads, nor does
// a row's result on the other rows. Scratch comes from ctx.arena. Each function throws Error for shapes,
// element types or offsets that do not fit, and where has_bf16_products() is false.
#pragma once

#include <cstdint>
#include <span>

#include "layers/context.h"

namespace conclave {

// True if this machine multiplies bf16 in hardware (x86: AVX512-BF16).
bool has_bf16_products();

// Elements that a packed right side [K, N] takes: N rounded up to whole panels, K to whole pairs.
std::int64_t packed_elements(std::int64_t k, std::int64_t n);

struct PackRightSideArgs {
  ConstTensorView matrices;  // fp32 or bf16 [n, K, N]; [n, N, K] with transpose
  bool transpose = false;
  TensorView packed;  // bf16 [n, packed_elements(K, N)]; may be uninitialised
};
void pack_right_side(Context& ctx, const PackRightSideArgs& args);

// A few rows of one such matrix, packed by the calling thread alone: for whoever has just computed them.
constexpr std::int64_t kRowsPackedAtOnce = 32;
struct PackRowsArgs {
  ConstTensorView matrix;  // fp32 or bf16 [K, N]; [N, K] with transpose
  Range rows;              // of it: begin a multiple of kRowsPackedAtOnce, at most as many
  bool transpose = false;
  TensorView packed;  // bf16 [packed_elements(K, N)], of the whole matrix
};
void pack_rows_of_right_side(const PackRowsArgs& args);

struct Bf16GroupedGemmArgs {
  ConstTensorView x;                      // fp32 or bf16 [R, K]
  ConstTensorView packed;                 // bf16 [n, packed_elements(K, N)]
  std::span<const std::int64_t> offsets;  // [n + 1]: rows [offsets[e], offsets[e + 1]) belong to matrix e
  TensorView y;                           // fp32 or bf16 [R, N]
  bool accumulate = false;                // true: +=, false: = (y may be uninitialised)
};
// y[r] = x[r] B[e] for the rows r of each matrix e.
void bf16_grouped_gemm(Context& ctx, const Bf16GroupedGemmArgs& args);

struct Bf16GroupedGemmWeightGradientArgs {
  ConstTensorView dy;                     // fp32 or bf16 [R, N]
  ConstTensorView x;                      // fp32 or bf16 [R, K]
  std::span<const std::int64_t> offsets;  // [n + 1]
  TensorView dweights;                    // fp32 [n, N, K]
  bool accumulate = true;                 // true: +=, false: = (dweights may be uninitialised)
};
// dW[e] += sum over the rows r of matrix e of dy[r] x[r]^T; without rows it is left, or cleared.
void bf16_grouped_gemm_weight_gradient(Context& ctx, const Bf16GroupedGemmWeightGradientArgs& args);

namespace cpu {  // arguments already checked
void pack_right_side(const PackRightSideArgs& args);
void pack_rows_of_right_side(const PackRowsArgs& args);
void bf16_grouped_gemm(Context& ctx, const Bf16GroupedGemmArgs& args);
void bf16_grouped_gemm_weight_gradient(Context& ctx, const Bf16GroupedGemmWeightGradientArgs& args);
}  // namespace cpu

}  // namespace conclave
