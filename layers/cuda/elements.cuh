// What kernels share: elements that are fp32 or bf16, and sums over warps and blocks in a fixed order.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/kernels.h"
#include "layers/cuda/shared_memory.cuh"

namespace conclave::cuda {

// bfloat16 (comm/base/dtype.h) as kernels see it.
struct Bf16 {
  std::uint16_t bits;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ inline void set(float& x, float value) { x = value; }
// Round to nearest, ties to even; NaN stays NaN.
__device__ inline void set(Bf16& x, float value) {
  const unsigned raw = __float_as_uint(value);
  const bool is_nan = (raw & 0x7fffffffU) > 0x7f800000U;
  x.bits =
      static_cast<std::uint16_t>(is_nan ? (raw >> 16) | 0x40U : (raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16);
}
__device__ inline float rounded_to_bf16(float value) {
  Bf16 rounded;
  set(rounded, value);
  return to_float(rounded);
}

// Calls function(pointer to the elements) with their type. On the host.
template <class Function>
void visit(ConstElements elements, Function function) {
  if (elements.dtype == DType::kBFloat16) {
    function(static_cast<const Bf16*>(elements.data));
  } else {
    function(static_cast<const float*>(elements.data));
  }
}
template <class Function>
void visit(Elements elements, Function function) {
  if (elements.dtype == DType::kBFloat16) {
    function(static_cast<Bf16*>(elements.data));
  } else {
    function(static_cast<float*>(elements.data));
  }
}

__device__ inline std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// The same on all lanes.
__device__ inline float sum_of_warp(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
__device__ inline double sum_of_warp(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
__device__ inline float max_of_warp(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// The same on all threads of a one-dimensional block of whole warps. `scratch` is shared memory of kWarp
// elements; it may be used again at once.
template <class T>
__device__ T sum_of_block(T value, T* scratch) {
  value = sum_of_warp(value);
  const unsigned warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = 0;
  for (unsigned warp = 0; warp < warps; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}
__device__ inline float max_of_block(float value, float* scratch) {
  value = max_of_warp(value);
  const unsigned warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  float largest = scratch[0];
  for (unsigned warp = 1; warp < warps; ++warp) largest = fmaxf(largest, scratch[warp]);
  __syncthreads();
  return largest;
}

}  // namespace conclave::cuda
