// When a GPU gets to a place in a stream's work, by its own clock: what is measured is the work, not the
// host's way of waiting for it.
#pragma once

#include "comm/cuda/stream.h"

namespace conclave::cuda {

class Timestamp {
 public:
  Timestamp();
  ~Timestamp();
  Timestamp(const Timestamp&) = delete;
  Timestamp& operator=(const Timestamp&) = delete;

  void record(const Stream& stream);  // after everything enqueued in `stream` so far
  // Of the GPU, once it has passed both.
  double seconds_since(const Timestamp& earlier) const;

 private:
  EventHandle handle_ = nullptr;
};

}  // namespace conclave::cuda
