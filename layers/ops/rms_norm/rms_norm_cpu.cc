#include <algorithm>
#include <cmath>

#include "layers/ops/rms_norm/rms_norm.h"
#include "layers/tensor/visit_elements.h"

namespace conclave::cpu {
namespace {

// Writes one row of y and returns its rstd. y may be x.
template <class Element>
float normalise_row(const float* x, const float* weight, Element* y, std::int64_t width, float eps) {
  float sum_of_squares = 0.0F;
#pragma omp simd reduction(+ : sum_of_squares)
  for (std::int64_t d = 0; d < width; ++d) sum_of_squares += x[d] * x[d];
  const float rstd = 1.0F / std::sqrt(sum_of_squares / static_cast<float>(width) + eps);
#pragma omp simd
  for (std::int64_t d = 0; d < width; ++d) set(y[d], x[d] * rstd * weight[d]);
  return rstd;
}

template <class Element>
void normalise(const RmsNormArgs& args, Element* y) {
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float* x = args.x.data<float>();
  const float* weight = args.weight.data<float>();
  float* rstd = args.rstd.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < rows; ++t) {
    rstd[t] = normalise_row(x + t * width, weight, y + t * width, width, args.eps);
  }
}

template <class Element>
void add_and_normalise(const AddRmsNormArgs& args, Element* y) {
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float* x = args.x.data<float>();
  const float* delta = args.delta.data<float>();
  const float* weight = args.weight.data<float>();
  float* residual_sum = args.residual_sum.data<float>();
  float* rstd = args.rstd.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::int64_t row = t * width;
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) residual_sum[row + d] = x[row + d] + delta[row + d];
    // The row is still in the first-level cache.
    rstd[t] = normalise_row(residual_sum + row, weight, y + row, width, args.eps);
  }
}

// With x_hat = x rstd and g = dy weight: dx = rstd (g - x_hat mean(g x_hat)), dweight = sum_t dy x_hat.
// dx may be dy or dresidual; dresidual may be null.
void normalise_row_backward(const float* dy, const float* x, const float* weight, float rstd,
                            const float* dresidual, float* dx, float* dweight, std::int64_t width) {
  float projection = 0.0F;
#pragma omp simd reduction(+ : projection)
  for (std::int64_t d = 0; d < width; ++d) {
    const float dy_x_hat = dy[d] * (x[d] * rstd);
    dweight[d] += dy_x_hat;
    projection += dy_x_hat * weight[d];
  }
  const float mean = projection / static_cast<float>(width);
  if (dresidual == nullptr) {
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) dx[d] = rstd * (dy[d] * weight[d] - x[d] * rstd * mean);
  } else {
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) {
      dx[d] = dresidual[d] + rstd * (dy[d] * weight[d] - x[d] * rstd * mean);
    }
  }
}

// Rows are cut into blocks whose number depends on nothing but the number of rows; each block sums its part
// of dweight, and the parts are added in order. One pass over memory serves dx and dweight.
void backward_in_blocks(Context& ctx, const RmsNormBackwardArgs& args, const float* dresidual) {
  constexpr std::int64_t kMaxBlocks = 64;
  constexpr std::int64_t kMinRowsOfBlock = 32;
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const std::int64_t blocks = std::clamp(rows / kMinRowsOfBlock, std::int64_t{1}, kMaxBlocks);

  const Arena::Mark scratch(*ctx.arena);
  float* partial = ctx.arena->allocate({blocks, width}).data<float>();
  const float* dy = args.dy.data<float>();
  const float* x = args.x.data<float>();
  const float* weight = args.weight.data<float>();
  const float* rstd = args.rstd.data<float>();
  float* dx = args.dx.data<float>();
  float* dweight = args.dweight.data<float>();
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (std::int64_t block = 0; block < blocks; ++block) {
      float* sums = partial + block * width;
      std::fill_n(sums, width, 0.0F);
      const Range range = partition(rows, blocks, block);
      for (std::int64_t t = range.begin; t < range.end; ++t) {
        const std::int64_t row = t * width;
        normalise_row_backward(dy + row, x + row, weight, rstd[t],
                               dresidual == nullptr ? nullptr : dresidual + row, dx + row, sums, width);
      }
    }
#pragma omp for schedule(static)
    for (std::int64_t d = 0; d < width; ++d) {
      float sum = 0.0F;
      for (std::int64_t block = 0; block < blocks; ++block) sum += partial[block * width + d];
      dweight[d] += sum;
    }
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
  visit_elements(args.y, [&](auto* y) { normalise(args, y); });
}

void add_rms_norm(const AddRmsNormArgs& args) {
  visit_elements(args.y, [&](auto* y) { add_and_normalise(args, y); });
}

void rms_norm_backward(Context& ctx, const RmsNormBackwardArgs& args) {
  backward_in_blocks(ctx, args, nullptr);
}

void add_rms_norm_backward(Context& ctx, const AddRmsNormBackwardArgs& args) {
  backward_in_blocks(ctx, {args.dy, args.residual_sum, args.weight, args.rstd, args.dx, args.dweight},
                     args.dresidual_sum.data<float>());
}

}  // namespace conclave::cpu
