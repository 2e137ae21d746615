// The part of CUDA that Conclave's kernels and runtime use, on the host: the same .cu files compile against
// this header with a C++ compiler and run under the ordinary tests where there is no GPU.
//
// It is as unforgiving as a device. What is enqueued runs when somebody waits for it, not before; fresh
// memory holds NaNs; a step beyond an allocation ends the program; threads of a block that part ways at a
// barrier are an error, and so are threads that race (race_check.h). Names and signatures are those of the
// CUDA Runtime API, whose documentation says what they mean. The environment says the rest:
//   CONCLAVE_EMULATED_GPUS=N     the host has N GPUs; without it, none
//   CONCLAVE_EMULATED_CAPABILITY=9   their compute capability: 9 for 9.0, 86 for 8.6; without it 8.0
//   CUDA_LAUNCH_BLOCKING=1       as on a device: what is enqueued is done at once
//   CONCLAVE_EMULATION_GUARDS=1  the host may not touch a GPU's memory while work is enqueued: who forgot to
//                                synchronize ends the program. Stricter than a device, where that work may
//                                touch other memory: not for programs with messages under way.
//   CONCLAVE_EMULATION_RACES=0   nobody looks for races
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after the other, all on one thread of the host.
#define __shared__ static

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorStubLibrary = 34,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
// They copy by hand: the compiler doesn't instrument what a call takes straight from memory as a whole.
struct alignas(8) uint2 {
  unsigned x, y;
  uint2() = default;
  uint2(unsigned x_, unsigned y_) : x(x_), y(y_) {}
  uint2(const uint2& other) : x(other.x), y(other.y) {}
  uint2& operator=(const uint2& other) = default;
};
struct alignas(8) float2 {
  float x, y;
  float2() = default;
  float2(float x_, float y_) : x(x_), y(y_) {}
  float2(const float2& other) : x(other.x), y(other.y) {}
  float2& operator=(const float2& other) = default;
};
struct alignas(16) float4 {
  float x, y, z, w;
  float4() = default;
  float4(float x_, float y_, float z_, float w_) : x(x_), y(y_), z(z_), w(w_) {}
  float4(const float4& other) : x(other.x), y(other.y), z(other.z), w(other.w) {}
  float4& operator=(const float4& other) = default;
};

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

// Devices.
struct cudaDeviceProp {
  char name[256] = {};
  std::size_t totalGlobalMem = 0;
  int major = 0;
  int minor = 0;
  int multiProcessorCount = 0;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrConcurrentManagedAccess = 89,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device);
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);

// Streams and events.
namespace emulation {
struct Stream;
struct Event;
struct Graph;
}  // namespace emulation
using cudaStream_t = emulation::Stream*;
using cudaEvent_t = emulation::Event*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// Graphs. A stream that is captured refuses whatever is no work: waits, and places in it.
using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;
struct cudaGraphNode;
using cudaGraphNode_t = cudaGraphNode*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

// Memory.
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemLocation {
  cudaMemLocationType type = cudaMemLocationTypeDevice;
  int id = 0;
};
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMallocManaged(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** memory, std::size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaMemPrefetchAsync(const void* memory, std::size_t bytes, cudaMemLocation location,
                                 unsigned flags, cudaStream_t stream);

// Launches.
struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
// One block at a time, whatever the kernel.
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Parameters...), int,
                                                          std::size_t) {
  *blocks = 1;
  return cudaSuccess;
}

namespace emulation {

// For whatever else runs in the order of a stream (cuBLAS).
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
// For what may have to wait (NCCL): its turn ends when `work` returns true; until then it is called again.
cudaError_t enqueue_until_done(cudaStream_t stream, std::function<bool()> work);
cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread);

// What a kernel is given must lie in a GPU's memory: most devices can't read a host's. Pointers within
// structs are not looked at.
bool is_gpu_memory(const void* memory);
template <class T>
bool is_reachable(const T& argument) {
  if constexpr (std::is_pointer_v<T>) return argument == nullptr || is_gpu_memory(argument);
  return true;
}

// Within a kernel.
void wait_for_block();                                                  // __syncthreads
void wait_for_warp();                                                   // __syncwarp
void* dynamic_shared_memory();                                          // extern __shared__
void exchange_in_warp(const void* mine, void* all, std::size_t bytes);  // all: 32 values, one a lane
void take_from_lane(const void* mine, void* theirs, std::size_t bytes, int lane);
// cp.async: the copy is made when its thread waits for its group, and not before.
void copy_later(void* to, const void* from, std::size_t bytes, std::size_t filled_bytes);
void commit_copies();
void wait_for_copies(std::size_t groups_under_way);
// wgmma: the product is made when its thread waits for its group, and not before. It reads shared memory in
// another way than copies write it: a thread that has copied must have published before anyone begins one.
void publish_to_products();
struct SharedPiece {
  const void* memory;
  std::size_t bytes;
};
// `reads`: of the whole warpgroup, told by some of its threads.
void multiply_later(std::function<void()> product, std::vector<SharedPiece> reads, const void* where);
void commit_products();
void wait_for_products(std::size_t groups_under_way);
// Told to the check for races, of the code at `where`.
void note_read(const void* memory, std::size_t bytes, const void* where);
void note_atomic(const void* memory, std::size_t bytes, const void* where);
// The kernel has done what a device forbids: the launch fails, in the end.
void fail(const char* problem);

template <class T>
T from_lane(T value, int lane) {
  T theirs;
  take_from_lane(&value, &theirs, sizeof(T), lane & (warpSize - 1));
  return theirs;
}

inline int lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % warpSize);
}

}  // namespace emulation

// Arguments are copied when a kernel is enqueued, as they are to a device.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<Parameters...> copies(static_cast<Parameters>(arguments)...);
  if (!std::apply([](const auto&... each) { return (emulation::is_reachable(each) && ...); }, copies))
    return cudaErrorInvalidValue;
  return emulation::launch(*config, [kernel, copies] { std::apply(kernel, copies); });
}

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __syncwarp(unsigned = 0xffffffffU) { emulation::wait_for_warp(); }
// All 32 lanes take part: no kernel here uses another mask.
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return emulation::from_lane(value, source);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::from_lane(value, emulation::lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int source = emulation::lane() - static_cast<int>(delta);
  const T received = emulation::from_lane(value, source);
  return source >= 0 ? received : value;
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const int source = emulation::lane() + static_cast<int>(delta);
  const T received = emulation::from_lane(value, source);
  return source < warpSize ? received : value;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
template <class T>
unsigned __match_any_sync(unsigned, T value) {
  T all[warpSize];
  emulation::exchange_in_warp(&value, all, sizeof(T));
  unsigned equal = 0;
  for (int lane = 0; lane < warpSize; ++lane) equal |= (all[lane] == value ? 1U : 0U) << lane;
  return equal;
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  bool all[warpSize];
  emulation::exchange_in_warp(&vote, all, sizeof vote);
  unsigned votes = 0;
  for (int lane = 0; lane < warpSize; ++lane) votes |= (all[lane] ? 1U : 0U) << lane;
  return votes;
}
// Threads take turns, and only at barriers. Of integers only, as everywhere: sums of them have no order.
template <class Integer>
__attribute__((no_sanitize("thread"))) Integer atomicAdd(Integer* sum, Integer value) {
  emulation::note_atomic(sum, sizeof *sum, __builtin_return_address(0));
  const Integer before = *sum;
  *sum += value;
  return before;
}
inline float rsqrtf(float value) { return 1.0F / std::sqrt(value); }
