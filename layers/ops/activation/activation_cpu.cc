#include "layers/ops/activation/activation.h"
#include "layers/ops/vector_math.h"
#include "layers/tensor/visit_elements.h"

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

template <class Element>
void forward(const ActivationArgs& args, Element* all_h) {
  const Element* all_up = args.up.data<Element>();
  const bool is_relu = args.kind == config::relu;
  for_each_row(args.h, [=](std::int64_t first, std::int64_t width) {
    const Element* up = all_up + first;
    Element* h = all_h + first;
    if (is_relu) {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        const auto u = to_float(up[f]);
        set(h[f], u < 0.0F ? 0.0F : u);
      }
    } else {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        const auto u = to_float(up[f]);
        set(h[f], u * vector_sigmoid(u * (kLinear + kCubic * (u * u))));
      }
    }
  });
}

template <class Element>
void backward(const ActivationBackwardArgs& args, Element* all_dup) {
  const Element* all_up = args.up.data<Element>();
  const Element* all_dh = args.dh.data<Element>();
  const bool is_relu = args.kind == config::relu;
  for_each_row(args.dup, [=](std::int64_t first, std::int64_t width) {
    const Element* up = all_up + first;
    const Element* dh = all_dh + first;
    Element* dup = all_dup + first;
    if (is_relu) {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        set(dup[f], to_float(up[f]) > 0.0F ? to_float(dh[f]) : 0.0F);
      }
    } else {
#pragma omp simd
      for (std::int64_t f = 0; f < width; ++f) {
        const auto u = to_float(up[f]);
        const float square = u * u;
        const float sigmoid = vector_sigmoid(u * (kLinear + kCubic * square));
        set(dup[f], to_float(dh[f]) *
                        (sigmoid + u * (kLinear + 3.0F * kCubic * square) * (sigmoid * (1.0F - sigmoid))));
      }
    }
  });
}

}  // namespace

void activation(const ActivationArgs& args) {
  visit_elements(args.h, [&](auto* h) { forward(args, h); });
}

void activation_backward(const ActivationBackwardArgs& args) {
  visit_elements(args.dup, [&](auto* dup) { backward(args, dup); });
}

}  // namespace conclave::cpu
