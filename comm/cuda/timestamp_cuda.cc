#include "comm/cuda/timestamp.h"

#include "comm/cuda/check.cuh"

namespace conclave::cuda {
namespace {

cudaEvent_t native(EventHandle handle) { return static_cast<cudaEvent_t>(handle); }

}  // namespace

Timestamp::Timestamp() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDefault), "making a timestamp");
  handle_ = event;
}

Timestamp::~Timestamp() { static_cast<void>(cudaEventDestroy(native(handle_))); }

void Timestamp::record(const Stream& stream) {
  check(cudaEventRecord(native(handle_), static_cast<cudaStream_t>(stream.handle())),
        "recording a timestamp");
}

double Timestamp::seconds_since(const Timestamp& earlier) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, native(earlier.handle_), native(handle_)), "reading timestamps");
  return static_cast<double>(milliseconds) / 1e3;
}

}  // namespace conclave::cuda
