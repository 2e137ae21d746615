// The local half of a reduction, on a GPU.
#pragma once

#include <cstdint>

#include "comm/base/dtype.h"
#include "comm/base/reduce_op.h"
#include "comm/cuda/stream.h"

namespace conclave {

// result[i] = (...((source 0 op source 1) op source 2) ...)[i], the same bits as reduce_in_order()
// (comm/ordered_reduction.h) gives.
struct DeviceReduction {
  const void* received;  // [ranks, count]: the sources, of which row `own` isn't read
  const void* mine;      // [count]: that one
  void* result;          // [count]; may be `mine`
  std::int64_t count;
  int ranks;
  int own;
  DType dtype;
  ReduceOp op;
};

// Enqueued in `stream`. Throws Error for float16, which only files hold.
void reduce_in_order(const cuda::Stream& stream, const DeviceReduction& reduction);

// The same from nvcc's side, which doesn't read the header of errors. Returns what is wrong; null if nothing
// is.
const char* enqueue_reduction(cuda::StreamHandle stream, const DeviceReduction& reduction);

}  // namespace conclave
