// The kernels of the optimizer, as plain functions that enqueue them on a GPU (as layers/cuda/kernels.h).
#pragma once

#include <cstdint>

#include "comm/cuda/stream.h"

namespace conclave::cuda {

// One update of AdamW (optim/adamw.h), as the elements of a tensor need it.
struct AdamWCoefficients {
  float gradient_scale;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;                 // learning rate / (1 - beta1^t)
  float second_moment_root_scale;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float kept;  // 1 - learning rate * weight decay
};
// Tensors differ in their coefficients by kind: dense or of experts, with weight decay or without.
inline constexpr int kAdamWKinds = 4;
struct AdamWCoefficientsByKind {
  AdamWCoefficients of_kind[kAdamWKinds];
};
// Elements that lie side by side, a piece of one tensor.
struct AdamWPiece {
  const float* gradient;
  float* value;
  float* m;
  float* v;
  std::int64_t count;
  std::int64_t kind;
};
// All pieces by one launch, a block each: few enough elements that none is waited for. `pieces` lie in the
// memory of the stream's GPU.
inline constexpr std::int64_t kAdamWElementsOfPiece = std::int64_t{1} << 14;
void adamw(StreamHandle stream, const AdamWCoefficientsByKind& coefficients, const AdamWPiece* pieces,
           std::int64_t count);

// Numbers whose squares are summed.
struct SquaresBlock {
  const float* values;
  std::int64_t count;
};
// sums[i] = sum of the squares of blocks[i], in double; both in the memory of the stream's GPU.
void sums_of_squares(StreamHandle stream, const SquaresBlock* blocks, double* sums, std::int64_t count);

}  // namespace conclave::cuda
