#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

__global__ void embedding_kernel(const float* weight, const std::int32_t* tokens, float* x,
                                 std::int64_t count, std::int64_t width) {
  const std::int64_t i = global_thread();
  if (i < count) x[i] = weight[tokens[i / width] * width + i % width];
}

constexpr unsigned kColumns = 128;

// Block (x, y): token x of those of the vocabulary that occur, columns y x kColumns and on. Its rows are
// added in the order of their positions.
__global__ void embedding_backward_kernel(const float* dx, const std::int32_t* tokens,
                                          const std::int32_t* positions, const std::int32_t* first,
                                          float* dweight, std::int64_t width) {
  const std::int32_t begin = first[blockIdx.x];
  const std::int32_t end = first[blockIdx.x + 1];
  float* row = dweight + tokens[positions[begin]] * width;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.y) * kColumns + threadIdx.x;
  if (d >= width) return;
  float sum = row[d];
#pragma unroll 8
  for (std::int32_t i = begin; i < end; ++i) sum += dx[positions[i] * width + d];
  row[d] = sum;
}

}  // namespace

void embedding(StreamHandle stream, const float* weight, const std::int32_t* tokens, float* x, std::int64_t T,
               std::int64_t D) {
  if (T * D == 0) return;
  launch("embedding", stream, blocks_for(T * D), kThreads, 0, embedding_kernel, weight, tokens, x, T * D, D);
}

void embedding_backward(StreamHandle stream, const float* dx, const std::int32_t* tokens,
                        const std::int32_t* positions, const std::int32_t* first, std::int64_t runs,
                        float* dweight, std::int64_t D) {
  if (runs * D == 0) return;
  const dim3 grid(static_cast<unsigned>(runs), static_cast<unsigned>((D + kColumns - 1) / kColumns));
  launch("embedding_backward", stream, grid, kColumns, 0, embedding_backward_kernel, dx, tokens, positions,
         first, dweight, D);
}

}  // namespace conclave::cuda
