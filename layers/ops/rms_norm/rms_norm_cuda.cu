#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int64_t kRowsOfBlock = 32;
constexpr std::int64_t kMaxRowBlocks = 128;

// A warp a row. y may be x, residual_sum may be x or delta: each element is read before it is written.
template <class Element>
__global__ void rms_norm_kernel(const float* all_x, const float* all_delta, const float* weight,
                                float* all_residual_sum, Element* all_y, float* rstd, float eps,
                                std::int64_t rows, std::int64_t width) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* x = all_x + row * width;
  if (all_delta != nullptr) {
    const float* delta = all_delta + row * width;
    float* residual_sum = all_residual_sum + row * width;
    for (std::int64_t d = lane; d < width; d += kWarp) residual_sum[d] = x[d] + delta[d];
    x = residual_sum;  // each lane reads what it wrote itself
  }
  float sum_of_squares = 0;
  for (std::int64_t d = lane; d < width; d += kWarp) sum_of_squares += x[d] * x[d];
  sum_of_squares = sum_of_warp(sum_of_squares);
  const float r = 1.0F / sqrtf(sum_of_squares / static_cast<float>(width) + eps);
  Element* y = all_y + row * width;
  for (std::int64_t d = lane; d < width; d += kWarp) set(y[d], x[d] * r * weight[d]);
  if (lane == 0) rstd[row] = r;
}

// With x_hat = x rstd and g = dy weight: dx = rstd (g - x_hat mean(g x_hat)). dx may be dy or dresidual.
__global__ void rms_norm_dx_kernel(const float* all_dy, const float* all_x, const float* weight,
                                   const float* rstd, const float* all_dresidual, float* all_dx,
                                   std::int64_t rows, std::int64_t width) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* dy = all_dy + row * width;
  const float* x = all_x + row * width;
  float* dx = all_dx + row * width;
  const float r = rstd[row];
  float projection = 0;
  for (std::int64_t d = lane; d < width; d += kWarp) projection += dy[d] * (x[d] * r) * weight[d];
  const float mean = sum_of_warp(projection) / static_cast<float>(width);
  for (std::int64_t d = lane; d < width; d += kWarp) {
    const float past_the_norm = all_dresidual == nullptr ? 0.0F : all_dresidual[row * width + d];
    dx[d] = past_the_norm + r * (dy[d] * weight[d] - x[d] * r * mean);
  }
}

// dweight = sum_t dy x_hat: a thread a column and block of rows (blockIdx.y), then a thread a column over
// blocks.
__global__ void rms_norm_partial_kernel(const float* dy, const float* x, const float* rstd, float* partial,
                                        std::int64_t rows, std::int64_t width) {
  const std::int64_t d = global_thread();
  if (d >= width) return;
  const std::int64_t begin = rows * blockIdx.y / gridDim.y;
  const std::int64_t end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum = 0;
  for (std::int64_t t = begin; t < end; ++t) sum += dy[t * width + d] * (x[t * width + d] * rstd[t]);
  partial[blockIdx.y * width + d] = sum;
}

__global__ void rms_norm_dweight_kernel(const float* partial, float* dweight, std::int64_t blocks,
                                        std::int64_t width) {
  const std::int64_t d = global_thread();
  if (d >= width) return;
  float sum = 0;
  for (std::int64_t block = 0; block < blocks; ++block) sum += partial[block * width + d];
  dweight[d] += sum;
}

}  // namespace

void rms_norm(StreamHandle stream, const float* x, const float* delta, const float* weight,
              float* residual_sum, Elements y, float* rstd, float eps, std::int64_t T, std::int64_t D) {
  if (T == 0) return;
  visit(y, [&]<class Element>(Element* result) {
    launch("rms_norm", stream, blocks_for(T * kWarp), kThreads, 0, rms_norm_kernel<Element>, x, delta, weight,
           residual_sum, result, rstd, eps, T, D);
  });
}

std::int64_t rms_norm_row_blocks(std::int64_t T) {
  const std::int64_t blocks = T / kRowsOfBlock;
  return blocks < 1 ? 1 : (blocks > kMaxRowBlocks ? kMaxRowBlocks : blocks);
}

void rms_norm_backward(StreamHandle stream, const float* dy, const float* x, const float* weight,
                       const float* rstd, const float* dresidual, float* dx, float* dweight, float* partial,
                       std::int64_t T, std::int64_t D) {
  if (T * D == 0) return;
  // Before dx, which may take the place of dy.
  const std::int64_t blocks = rms_norm_row_blocks(T);
  dim3 grid = blocks_for(D);
  grid.y = static_cast<unsigned>(blocks);
  launch("rms_norm_partial", stream, grid, kThreads, 0, rms_norm_partial_kernel, dy, x, rstd, partial, T, D);
  launch("rms_norm_dweight", stream, blocks_for(D), kThreads, 0, rms_norm_dweight_kernel, partial, dweight,
         blocks, D);
  launch("rms_norm_dx", stream, blocks_for(T * kWarp), kThreads, 0, rms_norm_dx_kernel, dy, x, weight, rstd,
         dresidual, dx, T, D);
}

}  // namespace conclave::cuda
