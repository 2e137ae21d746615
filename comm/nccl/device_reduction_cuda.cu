#include "comm/nccl/device_reduction.h"

#include <cuda_runtime.h>

namespace conclave {
namespace {

// How an element is stored and in which type it is added.
template <class T>
struct Plain {
  using Stored = T;
  using Added = T;
  static __device__ T load(T value) { return value; }
  static __device__ T store(T value) { return value; }
};

// As class bfloat16 (comm/base/dtype.h) converts: to nearest, ties to even, NaN stays NaN.
struct BFloat16 {
  using Stored = unsigned short;
  using Added = float;
  static __device__ float load(Stored bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
  static __device__ Stored store(float value) {
    const unsigned raw = __float_as_uint(value);
    const bool is_nan = (raw & 0x7fffffffU) > 0x7f800000U;
    return static_cast<Stored>(is_nan ? (raw >> 16) | 0x40U : (raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16);
  }
};

struct Sum {
  template <class A>
  static __device__ A apply(A a, A b) {
    return static_cast<A>(a + b);
  }
};
struct Max {
  template <class A>
  static __device__ A apply(A a, A b) {
    return b > a || b != b ? b : a;  // b != b: NaN
  }
};
struct Min {
  template <class A>
  static __device__ A apply(A a, A b) {
    return b < a || b != b ? b : a;
  }
};

template <class Element, class Op>
__global__ void reduce_rows(const typename Element::Stored* received, const typename Element::Stored* mine,
                            typename Element::Stored* result, long long count, int ranks, int own) {
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    typename Element::Added sum = Element::load(own == 0 ? mine[i] : received[i]);
    for (int rank = 1; rank < ranks; ++rank)
      sum = Op::apply(sum, Element::load(rank == own ? mine[i] : received[rank * count + i]));
    result[i] = Element::store(sum);
  }
}

template <class Element, class Op>
const char* enqueue(cuda::StreamHandle stream, const DeviceReduction& reduction) {
  constexpr long long kMaxBlocks = 1024;  // more than a GPU runs at once; each goes on with later elements
  using Stored = typename Element::Stored;
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(256);
  const long long blocks = (reduction.count + config.blockDim.x - 1) / config.blockDim.x;
  config.gridDim = dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t status =
      cudaLaunchKernelEx(&config, reduce_rows<Element, Op>, static_cast<const Stored*>(reduction.received),
                         static_cast<const Stored*>(reduction.mine), static_cast<Stored*>(reduction.result),
                         static_cast<long long>(reduction.count), reduction.ranks, reduction.own);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

template <class Element>
const char* enqueue(cuda::StreamHandle stream, const DeviceReduction& reduction) {
  switch (reduction.op) {
    case ReduceOp::kSum:
      return enqueue<Element, Sum>(stream, reduction);
    case ReduceOp::kMax:
      return enqueue<Element, Max>(stream, reduction);
    case ReduceOp::kMin:
      return enqueue<Element, Min>(stream, reduction);
  }
  return "an unknown operation";
}

}  // namespace

const char* enqueue_reduction(cuda::StreamHandle stream, const DeviceReduction& reduction) {
  switch (reduction.dtype) {
    case DType::kFloat32:
      return enqueue<Plain<float>>(stream, reduction);
    case DType::kBFloat16:
      return enqueue<BFloat16>(stream, reduction);
    case DType::kFloat64:
      return enqueue<Plain<double>>(stream, reduction);
    case DType::kInt32:
      return enqueue<Plain<int>>(stream, reduction);
    case DType::kInt64:
      return enqueue<Plain<long long>>(stream, reduction);
    case DType::kUInt8:
      return enqueue<Plain<unsigned char>>(stream, reduction);
    case DType::kFloat16:
      break;  // only files hold it
  }
  return "no GPU adds this element type";
}

}  // namespace conclave
