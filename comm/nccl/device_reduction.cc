#include "comm/nccl/device_reduction.h"

#include "comm/base/error.h"

namespace conclave {

void reduce_in_order(const cuda::Stream& stream, const DeviceReduction& reduction) {
  if (reduction.count == 0) return;
  const char* problem = enqueue_reduction(stream.handle(), reduction);
  CONCLAVE_CHECK(problem == nullptr,
                 "the sum of {} elements of {} from {} ranks was not started on the GPU: {}", reduction.count,
                 name_of(reduction.dtype), reduction.ranks, problem);
}

}  // namespace conclave
