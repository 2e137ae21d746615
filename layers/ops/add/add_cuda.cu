#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

template <int kCount>
__global__ void add_kernel(const float* a, const float* b, float* sum, std::int64_t count) {
  const std::int64_t i = global_thread() * kCount;
  if (i >= count) return;
  float left[kCount];
  float right[kCount];
  load(left, a + i);
  load(right, b + i);
#pragma unroll
  for (int j = 0; j < kCount; ++j) left[j] += right[j];
  store(sum + i, left);
}

}  // namespace

void add(StreamHandle stream, const float* a, const float* b, float* sum, std::int64_t count) {
  if (count == 0) return;
  with_vectors<kElementsOfAccess<float>>(
      count,
      [&]<class Number>(Number) {
        constexpr int kCount = Number::value;
        launch("add", stream, blocks_for(count / kCount), kThreads, 0, add_kernel<kCount>, a, b, sum, count);
      },
      a, b, sum);
}

}  // namespace conclave::cuda
