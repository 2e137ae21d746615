#include "layers/ops/swiglu/swiglu.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {

void swiglu(const SwigluArgs& args) {
  const std::int64_t tokens = args.h.extent(0);
  const std::int64_t width = args.h.extent(1);
  const float* gate_up = args.gate_up.data<float>();
  float* h = args.h.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* gate = gate_up + t * 2 * width;
    const float* up = gate + width;
    float* row = h + t * width;
#pragma omp simd
    for (std::int64_t f = 0; f < width; ++f) row[f] = gate[f] * vector_sigmoid(gate[f]) * up[f];
  }
}

void swiglu_backward(const SwigluBackwardArgs& args) {
  const std::int64_t tokens = args.dh.extent(0);
  const std::int64_t width = args.dh.extent(1);
  const float* gate_up = args.gate_up.data<float>();
  const float* dh = args.dh.data<float>();
  float* dgate_up = args.dgate_up.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* gate = gate_up + t * 2 * width;
    const float* up = gate + width;
    const float* dh_row = dh + t * width;
    float* dgate = dgate_up + t * 2 * width;
    float* dup = dgate + width;
#pragma omp simd
    for (std::int64_t f = 0; f < width; ++f) {
      const float g = gate[f];
      const float u = up[f];
      const float sigmoid = vector_sigmoid(g);
      // silu'(g) = sigmoid (1 + g (1 - sigmoid))
      dgate[f] = dh_row[f] * u * sigmoid * (1.0F + g * (1.0F - sigmoid));
      dup[f] = dh_row[f] * g * sigmoid;
    }
  }
}

}  // namespace conclave::cpu
