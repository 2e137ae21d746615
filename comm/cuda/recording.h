// Work of a stream that is enqueued again and again: kept as CUDA graphs, each of which costs the host one
// launch, and between them what no graph can hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"

namespace conclave::cuda {

// What the CUDA runtime knows an executable graph by (cudaGraphExec_t): opaque here.
using GraphHandle = void*;

class Recording {
 public:
  // `stream` must outlive the object.
  explicit Recording(Stream& stream);
  // Nobody may wait for other ranks in the stream: what was replayed is done.
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Runs `work`, once, and keeps what it enqueues in the stream, where it is enqueued too. Addresses and
  // numbers that kernels are given are kept as they are. `work` may wait for the stream, and enqueue in
  // others, in Stream::outside_graphs() alone; host memory that it copies to the GPU must not change, unless
  // it lies in keep().
  void record(const std::function<void()>& work);
  // Enqueues it again, without running `work`.
  void replay() const;

  // While work is recorded: pinned memory that lives as long as the recording.
  std::byte* keep(std::size_t bytes);

 private:
  friend class Stream;
  // A graph, or what Stream::outside_graphs() was given between two of them.
  struct Part {
    GraphHandle graph = nullptr;
    std::function<void()> action;
  };
  void begin_graph();
  void end_graph();
  void put_between(const std::function<void()>& action);
  void discard();

  Stream& stream_;
  std::vector<Part> parts_;
  std::vector<Memory> kept_;
  bool is_in_graph_ = false;
};

}  // namespace conclave::cuda
