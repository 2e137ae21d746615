#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "optim/cuda/kernels.h"

namespace conclave::cuda {
namespace {

__global__ void squares_kernel(const SquaresBlock* blocks, double* sums) {
  __shared__ double scratch[kWarp];
  const SquaresBlock block = blocks[blockIdx.x];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < block.count; i += blockDim.x) {
    const double value = block.values[i];
    sum += value * value;
  }
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void sums_of_squares(StreamHandle stream, const SquaresBlock* blocks, double* sums, std::int64_t count) {
  if (count == 0) return;
  launch("sums_of_squares", stream, static_cast<unsigned>(count), kThreads, 0, squares_kernel, blocks, sums);
}

}  // namespace conclave::cuda
