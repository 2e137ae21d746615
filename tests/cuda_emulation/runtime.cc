// Devices, streams and memory calls of the emulated CUDA Runtime API.
#include <execinfo.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/cuda_emulation/memory.h"

namespace emulation {

// Work in order, to be enqueued as often as somebody wants.
struct Graph {
  std::vector<std::function<bool()>> work;
};

// Work in order. Each item is numbered, over the stream's life; it says if it is done, and is called again if
// not.
struct Stream {
  std::deque<std::function<bool()>> work;
  std::size_t done = 0;
  std::unique_ptr<Graph> captured;  // takes what is enqueued; null: the stream does

  std::size_t enqueued() const { return done + work.size(); }
};

// A place in a stream: after its first `position` items. One that is timed is an item itself.
struct Event {
  using Moment = std::chrono::steady_clock::time_point;

  Stream* stream = nullptr;
  std::size_t position = 0;
  std::shared_ptr<Moment> passed_at;  // null: not timed
};

namespace {

constexpr std::size_t kSharedBytesOfEveryone = std::size_t{48} << 10;
constexpr int kMultiprocessors = 4;

// Tests change the environment from one to the next.
int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : 0;
}
int gpu_count() { return number_in_environment("CONCLAVE_EMULATED_GPUS"); }
// As an A100's, if nobody asks for another.
struct Capability {
  int major = 8;
  int minor = 0;

  // That a block may have (CUDA Programming Guide, "Technical specifications per compute capability").
  int most_shared_bytes() const {
    if (major == 8 && minor == 0) return 163 << 10;
    return major == 9 || major == 10 ? 227 << 10 : 99 << 10;
  }
};
Capability compute_capability() {
  const int asked = number_in_environment("CONCLAVE_EMULATED_CAPABILITY");
  if (asked == 0) return {};
  return asked < 20 ? Capability{asked, 0} : Capability{asked / 10, asked % 10};
}
bool launches_block() { return number_in_environment("CUDA_LAUNCH_BLOCKING") != 0; }
bool guards() { return number_in_environment("CONCLAVE_EMULATION_GUARDS") != 0; }

struct State {
  int selected = 0;
  bool is_guarded = false;
  bool is_working = false;
  std::size_t most_shared_bytes = 0;  // that a kernel asked for
  std::string failure;                // of a kernel; a device is lost then, too
  std::vector<std::unique_ptr<Stream>> streams;
};

State& state() {
  static State& only = *new State;  // as long as memory.cc's
  return only;
}

void report_access(int) {
  constexpr char kMessage[] =
      "emulated GPU: memory was touched that is out of bounds, or that enqueued work may still use (a "
      "synchronize is missing). Who touched it:\n";
  static_cast<void>(!write(STDERR_FILENO, kMessage, sizeof kMessage - 1));
  void* frames[40];
  backtrace_symbols_fd(frames, backtrace(frames, 40), STDERR_FILENO);
  std::signal(SIGSEGV, SIG_DFL);
  std::raise(SIGSEGV);
}

void guard(bool forbids) {
  if (state().is_guarded == forbids) return;
  if (forbids) std::signal(SIGSEGV, report_access);
  allow_access(!forbids);
  state().is_guarded = forbids;
}

bool anything_enqueued() {
  return std::ranges::any_of(state().streams, [](const auto& stream) { return !stream->work.empty(); });
}

// Does the first `count` items of the stream's life, as far as it goes without waiting. True if they are
// done.
bool try_work_up_to(Stream& stream, std::size_t count) {
  guard(false);
  const bool is_outermost = !std::exchange(state().is_working, true);
  const std::size_t done_before = stream.done;
  while (stream.done < count && stream.work.front()()) {
    stream.work.pop_front();
    ++stream.done;
  }
  if (is_outermost) {
    state().is_working = false;
    if (stream.done > done_before) check_ends();
    if (guards() && anything_enqueued()) guard(true);
  }
  return stream.done >= count;
}

void work_up_to(Stream& stream, std::size_t count) {
  while (!try_work_up_to(stream, count)) std::this_thread::yield();
}

cudaError_t finish(Stream& stream) {
  work_up_to(stream, stream.enqueued());
  return state().failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  return enqueue_until_done(stream, [work = std::move(work)] {
    work();
    return true;
  });
}

cudaError_t enqueue_until_done(cudaStream_t stream, std::function<bool()> work) {
  if (stream->captured != nullptr) {
    stream->captured->work.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->work.push_back(std::move(work));
  if (launches_block()) return finish(*stream);
  if (guards()) guard(true);
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  const dim3& block = config.blockDim;
  const dim3& grid = config.gridDim;
  if (block.x * block.y * block.z == 0 || block.x * block.y * block.z > 1024 || block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (config.dynamicSmemBytes > kSharedBytesOfEveryone && config.dynamicSmemBytes > state().most_shared_bytes)
    return cudaErrorInvalidConfiguration;
  return enqueue(config.stream, [config, thread = std::move(thread)] {
    const std::string problem = run_grid(config, thread);
    if (!problem.empty()) state().failure = problem;
  });
}

}  // namespace emulation

using namespace emulation;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorStubLibrary:
      return "cudaErrorStubLibrary";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "?";
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? state().failure.c_str() : "on an emulated GPU";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = gpu_count();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= gpu_count()) return cudaErrorInvalidDevice;
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->totalGlobalMem = std::size_t{1} << 30;
  properties->major = compute_capability().major;
  properties->minor = compute_capability().minor;
  properties->multiProcessorCount = kMultiprocessors;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= gpu_count()) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = compute_capability().major;
      return cudaSuccess;
    case cudaDevAttrConcurrentManagedAccess:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = compute_capability().most_shared_bytes();
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (device < 0 || device >= gpu_count()) return cudaErrorInvalidDevice;
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (std::max(device, peer) >= gpu_count() || std::min(device, peer) < 0) return cudaErrorInvalidDevice;
  *can = device != peer ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = gpu_count() > 0 ? CUDART_VERSION : 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= gpu_count()) return cudaErrorInvalidDevice;
  state().selected = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = state().selected;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  if (value > compute_capability().most_shared_bytes()) return cudaErrorInvalidValue;
  state().most_shared_bytes = std::max(state().most_shared_bytes, static_cast<std::size_t>(value));
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  state().streams.push_back(std::make_unique<Stream>());
  *stream = state().streams.back().get();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t status = finish(*stream);
  std::erase_if(state().streams, [&](const auto& owned) { return owned.get() == stream; });
  return status;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream->captured != nullptr ? cudaErrorStreamCaptureUnsupported : finish(*stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Event awaited = *event;  // as it is recorded now
  if (awaited.stream == nullptr) return cudaSuccess;
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  return enqueue_until_done(stream, [awaited] { return try_work_up_to(*awaited.stream, awaited.position); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new Event;
  if ((flags & cudaEventDisableTiming) == 0) (*event)->passed_at = std::make_shared<Event::Moment>();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  cudaError_t status = cudaSuccess;
  if (event->passed_at != nullptr)
    status = enqueue(stream, [moment = event->passed_at] { *moment = std::chrono::steady_clock::now(); });
  event->stream = stream;
  event->position = stream->enqueued();
  return status;
}

// Whoever asks again and again finds the work done one day.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->stream == nullptr || event->stream->done >= event->position) return cudaSuccess;
  try_work_up_to(*event->stream, event->stream->done + 1);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) work_up_to(*event->stream, event->position);
  return state().failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  for (const Event* event : {begin, end}) {
    if (event->passed_at == nullptr || event->stream == nullptr) return cudaErrorInvalidValue;
    if (event->stream->done < event->position) return cudaErrorNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(*end->passed_at - *begin->passed_at).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->captured != nullptr) return cudaErrorInvalidValue;
  stream->captured = std::make_unique<Graph>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->captured == nullptr) return cudaErrorInvalidValue;
  *graph = stream->captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, std::size_t* count) {
  *count = graph->work.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new Graph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const std::function<bool()>& work : executable->work) {
    if (const cudaError_t status = enqueue_until_done(stream, work); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{1} << 40;
  return cudaSuccess;
}

cudaError_t cudaMallocManaged(void** memory, std::size_t bytes) {
  if (gpu_count() == 0) return cudaErrorNoDevice;
  *memory = take_memory(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

// As CUDA's: waits for everything that may use the memory.
cudaError_t cudaFree(void* memory) {
  for (const auto& stream : state().streams) finish(*stream);
  return give_memory_back(memory) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  if (gpu_count() == 0) return cudaErrorNoDevice;
  *memory = take_pinned_memory(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* memory) {
  for (const auto& stream : state().streams) finish(*stream);
  return give_pinned_memory_back(memory) ? cudaSuccess : cudaErrorInvalidValue;
}

// Pageable memory is read at once, that of a GPU and pinned memory when the copy has its turn.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (is_gpu_memory(from) || is_pinned_memory(from))
    return enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  const auto* source = static_cast<const std::byte*>(from);
  return enqueue(stream, [to, copied = std::vector<std::byte>(source, source + bytes)] {
    std::memcpy(to, copied.data(), copied.size());
  });
}

cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memset(memory, byte, bytes); });
}

cudaError_t cudaMemPrefetchAsync(const void* memory, std::size_t, cudaMemLocation location, unsigned,
                                 cudaStream_t) {
  if (location.id < 0 || location.id >= gpu_count() || !is_gpu_memory(memory)) return cudaErrorInvalidValue;
  return cudaSuccess;
}
