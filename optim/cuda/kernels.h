// The kernels of the optimizer, as plain functions that enqueue them on a GPU (as layers/cuda/kernels.h).
#pragma once

#include <cstdint>

#include "comm/cuda/stream.h"

namespace conclave::cuda {

// One update of AdamW (optim/adamw.h), as its elements need it.
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
void adamw(StreamHandle stream, const AdamWCoefficients& coefficients, const float* gradient, float* value,
           float* m, float* v, std::int64_t count);

// Numbers whose squares are summed.
struct SquaresBlock {
  const float* values;
  std::int64_t count;
};
// sums[i] = sum of the squares of blocks[i], in double; both in the memory of the stream's GPU.
void sums_of_squares(StreamHandle stream, const SquaresBlock* blocks, double* sums, std::int64_t count);

}  // namespace conclave::cuda
