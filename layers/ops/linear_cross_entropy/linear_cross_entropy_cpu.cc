#include <algorithm>
#include <cmath>

#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

// Returns the loss of one row of logits; with `gradients` the row becomes dlogits.
double cross_entropy_row(float* row, std::int64_t vocabulary, std::int32_t target, bool gradients,
                         float scale) {
  if (target == LinearCrossEntropyArgs::kIgnore) {
    if (gradients) std::fill_n(row, vocabulary, 0.0F);
    return 0.0;
  }
  float maximum = row[0];
#pragma omp simd reduction(max : maximum)
  for (std::int64_t v = 0; v < vocabulary; ++v) maximum = std::max(maximum, row[v]);
  const float logit = row[target];

  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t v = 0; v < vocabulary; ++v) {
    row[v] = vector_exp(row[v] - maximum);
    sum += row[v];
  }
  if (gradients) {
    const float factor = scale / sum;
#pragma omp simd
    for (std::int64_t v = 0; v < vocabulary; ++v) row[v] *= factor;
    row[target] -= scale;
  }
  return std::log(static_cast<double>(sum)) + (static_cast<double>(maximum) - static_cast<double>(logit));
}

}  // namespace

void cross_entropy_rows(const CrossEntropyRowsArgs& args) {
  const std::int64_t rows = args.logits.extent(0);
  const std::int64_t vocabulary = args.logits.extent(1);
  float* logits = args.logits.data<float>();
  const std::int32_t* targets = args.targets.data<std::int32_t>();
  double* losses = args.losses.data<double>();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    losses[row] =
        cross_entropy_row(logits + row * vocabulary, vocabulary, targets[row], args.gradients, args.scale);
  }
}

}  // namespace conclave::cpu
