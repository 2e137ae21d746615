#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kIgnore = -1;  // LinearCrossEntropyArgs::kIgnore

// A block a row: its loss, and with `gradients` dlogits in the place of the logits.
__global__ void cross_entropy_kernel(float* logits, const std::int32_t* targets, double* losses,
                                     bool gradients, float scale, std::int64_t vocabulary) {
  __shared__ float scratch[kWarp];
  float* row = logits + blockIdx.x * vocabulary;
  const std::int32_t target = targets[blockIdx.x];
  if (target == kIgnore) {
    if (gradients) {
      for (std::int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) row[v] = 0.0F;
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0;
    return;
  }
  float maximum = -INFINITY;
  for (std::int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) maximum = fmaxf(maximum, row[v]);
  maximum = max_of_block(maximum, scratch);
  const float logit = row[target];
  float sum = 0;
  for (std::int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) sum += expf(row[v] - maximum);
  sum = sum_of_block(sum, scratch);  // and from here on nobody reads a logit but its own
  if (gradients) {
    const float factor = scale / sum;
    for (std::int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x)
      row[v] = expf(row[v] - maximum) * factor - (v == target ? scale : 0.0F);
  }
  if (threadIdx.x == 0) {
    losses[blockIdx.x] =
        log(static_cast<double>(sum)) + (static_cast<double>(maximum) - static_cast<double>(logit));
  }
}

}  // namespace

void cross_entropy_rows(StreamHandle stream, float* logits, const std::int32_t* targets, double* losses,
                        bool gradients, float scale, std::int64_t rows, std::int64_t V) {
  if (rows == 0) return;
  launch("cross_entropy_rows", stream, static_cast<unsigned>(rows), kThreads, 0, cross_entropy_kernel, logits,
         targets, losses, gradients, scale, V);
}

}  // namespace conclave::cuda
