// The local half of every reduction: the same element of several ranks' data, combined in rank order.
#pragma once

#include <cstdint>
#include <span>

#include "comm/base/dtype.h"
#include "comm/communicator.h"

namespace conclave {

// result[i] = (...((sources[0][i] op sources[1][i]) op sources[2][i]) ...) for i in [0, count). At least one
// source; `result` may be one of them, and must not overlap them otherwise. bfloat16 is combined in float32
// and rounded once. kMax and kMin give NaN where any source is NaN.
void reduce_in_order(std::span<const void* const> sources, void* result, std::int64_t count, DType dtype,
                     ReduceOp op);

}  // namespace conclave
