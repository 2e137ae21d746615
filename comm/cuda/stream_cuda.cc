#include "comm/cuda/stream.h"

#include <exception>

#include "comm/base/error.h"
#include "comm/cuda/check.cuh"
#include "comm/cuda/recording.h"
#include "comm/cuda/runtime.h"

namespace conclave::cuda {
namespace {

cudaStream_t native(StreamHandle handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t native_event(EventHandle handle) { return static_cast<cudaEvent_t>(handle); }

}  // namespace

Stream::Stream(int index, bool is_urgent) : device_{DeviceKind::kCuda, index} {
  select(index);
  int concurrent = 0;
  check(cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, index),
        "asking a GPU for its attributes");
  CONCLAVE_CHECK(concurrent != 0,
                 "GPU {} can't be used: the host can't touch its managed memory while it computes (so under "
                 "Windows, WSL and some virtual GPUs)",
                 index);
  int least = 0;
  int greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking a GPU for its priorities");
  cudaStream_t stream = nullptr;
  // Apart from the legacy default stream, which would wait for all others.
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, is_urgent ? greatest : least),
        "making a stream");
  handle_ = stream;
}

// A failure that nobody waited for any more: there is nobody to tell. While an exception ends this rank, it
// waits for nobody: what is enqueued may wait for a rank that is lost.
Stream::~Stream() {
  if (handle_ == nullptr) return;
  if (std::uncaught_exceptions() == 0) static_cast<void>(cudaStreamSynchronize(native(handle_)));
  static_cast<void>(cudaStreamDestroy(native(handle_)));
}

void Stream::outside_graphs(const std::function<void()>& action) const {
  recording_ != nullptr ? recording_->put_between(action) : action();
}

void Stream::synchronize() const {
  CONCLAVE_CHECK(recording_ == nullptr, "the host waits for a stream whose work is being recorded");
  ++waits_;
  if (before_synchronize_) before_synchronize_();
  check(cudaStreamSynchronize(native(handle_)), "the work of a stream");
}

Event::Event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  handle_ = event;
}

Event::~Event() { static_cast<void>(cudaEventDestroy(native_event(handle_))); }

void Event::record(const Stream& stream) {
  check(cudaEventRecord(native_event(handle_), native(stream.handle())), "recording an event");
}

void Event::hold_back(const Stream& stream) const {
  check(cudaStreamWaitEvent(native(stream.handle()), native_event(handle_), 0), "waiting for an event");
}

bool Event::is_done() const {
  const cudaError_t status = cudaEventQuery(native_event(handle_));
  if (status == cudaErrorNotReady) return false;
  check(status, "the work before an event");
  return true;
}

void Event::synchronize() const {
  check(cudaEventSynchronize(native_event(handle_)), "the work before an event");
}

}  // namespace conclave::cuda
