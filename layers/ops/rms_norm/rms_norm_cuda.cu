#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int64_t kRowsOfBlock = 32;
constexpr std::int64_t kMaxRowBlocks = 1024;  // norms of heads have as many rows as few columns

// A warp a row. y may be x, residual_sum may be x or delta: each element is read before it is written.
template <int kCount, class Element>
__global__ void rms_norm_kernel(const float* all_x, const float* all_delta, const float* weight,
                                float* all_residual_sum, Element* all_y, float* rstd, float eps,
                                std::int64_t rows, std::int64_t width) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* x = all_x + row * width;
  const float* delta = all_delta == nullptr ? nullptr : all_delta + row * width;
  float* residual_sum = all_delta == nullptr ? nullptr : all_residual_sum + row * width;
  float sum_of_squares = 0;
  for (std::int64_t d = lane * kCount; d < width; d += kWarp * kCount) {
    float values[kCount];
    load(values, x + d);
    if (delta != nullptr) {
      float changes[kCount];
      load(changes, delta + d);
#pragma unroll
      for (int j = 0; j < kCount; ++j) values[j] += changes[j];
      store(residual_sum + d, values);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum_of_squares += values[j] * values[j];
  }
  sum_of_squares = sum_of_warp(sum_of_squares);
  const float r = 1.0F / sqrtf(sum_of_squares / static_cast<float>(width) + eps);
  if (delta != nullptr) x = residual_sum;  // each lane reads what it wrote itself
  Element* y = all_y + row * width;
  for (std::int64_t d = lane * kCount; d < width; d += kWarp * kCount) {
    float values[kCount];
    float weights[kCount];
    load(values, x + d);
    load(weights, weight + d);
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[j] = values[j] * r * weights[j];
    store(y + d, values);
  }
  if (lane == 0) rstd[row] = r;
}

// With x_hat = x rstd and g = dy weight: dx = rstd (g - x_hat mean(g x_hat)). dx may be dy or dresidual.
template <int kCount>
__global__ void rms_norm_dx_kernel(const float* all_dy, const float* all_x, const float* weight,
                                   const float* rstd, const float* all_dresidual, float* all_dx,
                                   std::int64_t rows, std::int64_t width) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* dy = all_dy + row * width;
  const float* x = all_x + row * width;
  const float r = rstd[row];
  float gradients[kCount];
  float values[kCount];
  float weights[kCount];
  float projection = 0;
  for (std::int64_t d = lane * kCount; d < width; d += kWarp * kCount) {
    load(gradients, dy + d);
    load(values, x + d);
    load(weights, weight + d);
#pragma unroll
    for (int j = 0; j < kCount; ++j) projection += gradients[j] * (values[j] * r) * weights[j];
  }
  const float mean = sum_of_warp(projection) / static_cast<float>(width);
  for (std::int64_t d = lane * kCount; d < width; d += kWarp * kCount) {
    float past_the_norm[kCount] = {};
    if (all_dresidual != nullptr) load(past_the_norm, all_dresidual + row * width + d);
    load(gradients, dy + d);
    load(values, x + d);
    load(weights, weight + d);
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      gradients[j] = past_the_norm[j] + r * (gradients[j] * weights[j] - values[j] * r * mean);
    store(all_dx + row * width + d, gradients);
  }
}

// dweight = sum_t dy x_hat: a thread a column and block of rows (blockIdx.y), then a block for kWarp columns,
// each of whose warps adds up every eighth of the blocks of rows.
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
  constexpr unsigned kWarps = kThreads / kWarp;
  __shared__ float sums[kWarps][kWarp];
  const unsigned warp = threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  for (std::int64_t block = warp; d < width && block < blocks; block += kWarps)
    sum += partial[block * width + d];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || d >= width) return;
  for (unsigned other = 1; other < kWarps; ++other) sum += sums[other][lane];
  dweight[d] += sum;
}

}  // namespace

void rms_norm(StreamHandle stream, const float* x, const float* delta, const float* weight,
              float* residual_sum, Elements y, float* rstd, float eps, std::int64_t T, std::int64_t D) {
  if (T == 0) return;
  visit(y, [&]<class Element>(Element* result) {
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("rms_norm", stream, blocks_for(T * kWarp), kThreads, 0,
                 rms_norm_kernel<Number::value, Element>, x, delta, weight, residual_sum, result, rstd, eps,
                 T, D);
        },
        x, delta, weight, residual_sum, result);
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
  const unsigned warps = static_cast<unsigned>((D + kWarp - 1) / kWarp);
  const unsigned threads = warps * kWarp < kThreads ? warps * kWarp : kThreads;
  const dim3 grid((static_cast<unsigned>(D) + threads - 1) / threads, static_cast<unsigned>(blocks));
  launch("rms_norm_partial", stream, grid, threads, 0, rms_norm_partial_kernel, dy, x, rstd, partial, T, D);
  launch("rms_norm_dweight", stream, warps, kThreads, 0, rms_norm_dweight_kernel, partial, dweight, blocks,
         D);
  with_vectors<kElementsOfAccess<float>>(
      D,
      [&]<class Number>(Number) {
        launch("rms_norm_dx", stream, blocks_for(T * kWarp), kThreads, 0, rms_norm_dx_kernel<Number::value>,
               dy, x, weight, rstd, dresidual, dx, T, D);
      },
      dy, x, weight, dresidual, dx);
}

}  // namespace conclave::cuda
