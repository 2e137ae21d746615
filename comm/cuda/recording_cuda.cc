#include "comm/cuda/recording.h"

#include "comm/cuda/check.cuh"

namespace conclave::cuda {
namespace {

cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }
cudaGraphExec_t native(GraphHandle graph) { return static_cast<cudaGraphExec_t>(graph); }

}  // namespace

Recording::Recording(Stream& stream) : stream_(stream) {}

Recording::~Recording() { discard(); }

void Recording::record(const std::function<void()>& work) {
  discard();
  try {
    begin_graph();
    work();
    end_graph();
  } catch (...) {
    discard();
    throw;
  }
}

void Recording::replay() const {
  for (const Part& part : parts_) {
    if (part.graph != nullptr) {
      check(cudaGraphLaunch(native(part.graph), native(stream_)), "launching a graph");
    } else {
      part.action();
    }
  }
}

std::byte* Recording::keep(std::size_t bytes) {
  kept_.push_back(allocate_pinned(bytes));
  return kept_.back().get();
}

// Relaxed: what other threads and libraries ask CUDA meanwhile doesn't concern this stream.
void Recording::begin_graph() {
  check(cudaStreamBeginCapture(native(stream_), cudaStreamCaptureModeRelaxed), "recording a stream");
  stream_.recording_ = this;
  is_in_graph_ = true;
}

void Recording::end_graph() {
  stream_.recording_ = nullptr;
  is_in_graph_ = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(native(stream_), &graph), "recording a stream");
  std::size_t nodes = 0;
  cudaGraphExec_t executable = nullptr;
  cudaError_t status = cudaGraphGetNodes(graph, nullptr, &nodes);
  if (status == cudaSuccess && nodes > 0) status = cudaGraphInstantiate(&executable, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  check(status, "making a graph of a stream's work");
  if (nodes == 0) return;
  parts_.push_back({executable, nullptr});
  check(cudaGraphLaunch(executable, native(stream_)), "launching a graph");
}

void Recording::put_between(const std::function<void()>& action) {
  end_graph();
  action();
  parts_.push_back({nullptr, action});
  begin_graph();
}

void Recording::discard() {
  if (is_in_graph_) {
    stream_.recording_ = nullptr;
    is_in_graph_ = false;
    cudaGraph_t graph = nullptr;
    static_cast<void>(cudaStreamEndCapture(native(stream_), &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  }
  for (const Part& part : parts_)
    if (part.graph != nullptr) static_cast<void>(cudaGraphExecDestroy(native(part.graph)));
  parts_.clear();
  kept_.clear();
}

}  // namespace conclave::cuda
