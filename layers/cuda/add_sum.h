// Sums of tensors that stay on a GPU: of losses, and of what routers tell.
#pragma once

#include <cstdint>

#include "comm/cuda/stream.h"

namespace conclave::cuda {

// *sum += scale * the sum of values [count], or of their squares; in an order that `count` decides. Enqueued.
void add_sum(StreamHandle stream, const float* values, std::int64_t count, bool of_squares, double scale,
             double* sum);
void add_sum(StreamHandle stream, const double* values, std::int64_t count, double* sum);

}  // namespace conclave::cuda
