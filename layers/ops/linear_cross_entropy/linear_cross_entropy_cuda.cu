#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kIgnore = -1;  // LinearCrossEntropyArgs::kIgnore

// A softmax's denominator, sum of exp(logit - maximum), of the logits so far.
struct Denominator {
  float maximum = -INFINITY;
  float sum = 0;

  // Nothing but -inf yet: terms of 0, not e^(inf - inf).
  __device__ float shift() const { return maximum == -INFINITY ? 0.0F : maximum; }

  __device__ void rise_to(float new_maximum) {
    const Denominator before = *this;
    maximum = fmaxf(maximum, new_maximum);
    sum *= expf(before.maximum - shift());
  }
  template <int kCount>
  __device__ void absorb(const float (&logits)[kCount]) {
    float largest = logits[0];
#pragma unroll
    for (int j = 1; j < kCount; ++j) largest = fmaxf(largest, logits[j]);
    if (largest > maximum) rise_to(largest);
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum += expf(logits[j] - shift());
  }
  __device__ void absorb(const Denominator& other) {
    rise_to(other.maximum);
    sum += other.sum * expf(other.maximum - shift());
  }
};

// Of all threads of a block, in a fixed order; the same on all of them. `scratch` has kWarp elements.
__device__ Denominator sum_of_block(Denominator mine, Denominator* scratch) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    Denominator other;
    other.maximum = __shfl_xor_sync(kAllLanes, mine.maximum, distance);
    other.sum = __shfl_xor_sync(kAllLanes, mine.sum, distance);
    mine.absorb(other);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  Denominator all = scratch[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) all.absorb(scratch[warp]);
  return all;
}

// A block a row: its loss, and with `gradients` dlogits in the place of the logits, which are read once for
// the sum and once for them.
template <int kCount>
__global__ void cross_entropy_kernel(float* logits, const std::int32_t* targets, double* losses,
                                     bool gradients, float scale, std::int64_t vocabulary) {
  float* row = logits + blockIdx.x * vocabulary;
  const std::int32_t target = targets[blockIdx.x];
  const std::int64_t first = threadIdx.x * kCount;
  const std::int64_t step = blockDim.x * kCount;
  if (target == kIgnore) {
    const float zeros[kCount] = {};
    for (std::int64_t v = first; gradients && v < vocabulary; v += step) store(row + v, zeros);
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0;
    return;
  }
  auto* scratch = reinterpret_cast<Denominator*>(shared_memory());
  Denominator mine;
  for (std::int64_t v = first; v < vocabulary; v += step) {
    float values[kCount];
    load(values, row + v);
    mine.absorb(values);
  }
  const float logit = row[target];
  const Denominator all = sum_of_block(mine, scratch);  // from here on nobody reads a logit but its own
  if (gradients) {
    const float factor = scale / all.sum;
    for (std::int64_t v = first; v < vocabulary; v += step) {
      float values[kCount];
      load(values, row + v);
#pragma unroll
      for (int j = 0; j < kCount; ++j)
        values[j] = expf(values[j] - all.maximum) * factor - (v + j == target ? scale : 0.0F);
      store(row + v, values);
    }
  }
  if (threadIdx.x == 0) {
    losses[blockIdx.x] =
        log(static_cast<double>(all.sum)) + (static_cast<double>(all.maximum) - static_cast<double>(logit));
  }
}

}  // namespace

void cross_entropy_rows(StreamHandle stream, float* logits, const std::int32_t* targets, double* losses,
                        bool gradients, float scale, std::int64_t rows, std::int64_t V) {
  if (rows == 0) return;
  with_vectors<kElementsOfAccess<float>>(
      V,
      [&]<class Number>(Number) {
        launch("cross_entropy_rows", stream, static_cast<unsigned>(rows), kThreads,
               kWarp * sizeof(Denominator), cross_entropy_kernel<Number::value>, logits, targets, losses,
               gradients, scale, V);
      },
      logits);
}

}  // namespace conclave::cuda
