// Host memory on its way to a GPU and back: through pinned memory, so that a copy doesn't wait for the work
// that is enqueued before it.
#pragma once

#include <array>
#include <cstddef>

#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"

namespace conclave::cuda {

class Staging {
 public:
  // `stream`, in whose order everything is copied, must outlive the object.
  explicit Staging(const Stream& stream);

  // Enqueues the copy of host memory, which may change as soon as this returns. Waits for the GPU only where
  // it is megabytes behind. Where the stream is recorded every replay copies the same.
  void upload(void* to, const void* from, std::size_t bytes);
  // Waits for the stream: host memory has what the GPU's had in its turn.
  void download(void* to, const void* from, std::size_t bytes);

 private:
  // Filled by one upload after the other, while the GPU copies from the other one.
  struct Half {
    std::byte* memory = nullptr;
    std::size_t used = 0;
    Event copied;  // all that was in it, when it was last full
  };
  // Memory for up to `bytes` of them; how many, `granted` says.
  std::byte* take(std::size_t bytes, std::size_t& granted);

  const Stream& stream_;
  Memory pinned_;
  std::array<Half, 2> halves_;
  std::size_t filling_ = 0;
};

}  // namespace conclave::cuda
