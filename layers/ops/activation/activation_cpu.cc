#include "layers/ops/activation/activation.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {
namespace {

// (1 + tanh(z)) / 2 is the sigmoid of 2 z; kLinear = 2 sqrt(2 / pi), kCubic = kLinear * 0.044715.
constexpr float kLinear = 1.5957691216F;
constexpr float kCubic = 0.0713548163F;

template <class Function>
void for_each_row(const TensorView& result, Function function) {
  const std::int64_t rows = result.extent(0);
  const std::int64_t width = result.extent(1);
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) function(row * width, width);
}

}  // namespace

void activation(const ActivationArgs& args) {
  const float* all_up = args.up.data<float>();
  float* all_h = args.h.data<float>();
  const bool is_relu = args.kind == config::relu;
  for_each_row(args.h, [=](std::int64_t first, std::int64_t width) {
    const float* up = all_up + first;
    float* h = all_h + first;
    if (is_relu) {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) h[f] = up[f] < 0.0F ? 0.0F : up[f];
    } else {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        const float u = up[f];
        h[f] = u * vector_sigmoid(u * (kLinear + kCubic * (u * u)));
      }
    }
  });
}

void activation_backward(const ActivationBackwardArgs& args) {
  const float* all_up = args.up.data<float>();
  const float* all_dh = args.dh.data<float>();
  float* all_dup = args.dup.data<float>();
  const bool is_relu = args.kind == config::relu;
  for_each_row(args.dup, [=](std::int64_t first, std::int64_t width) {
    const float* up = all_up + first;
    const float* dh = all_dh + first;
    float* dup = all_dup + first;
    if (is_relu) {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) dup[f] = up[f] > 0.0F ? dh[f] : 0.0F;
    } else {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        const float u = up[f];
        const float square = u * u;
        const float sigmoid = vector_sigmoid(u * (kLinear + kCubic * square));
        dup[f] = dh[f] * (sigmoid + u * (kLinear + 3.0F * kCubic * square) * (sigmoid * (1.0F - sigmoid)));
      }
    }
  });
}

}  // namespace conclave::cpu
