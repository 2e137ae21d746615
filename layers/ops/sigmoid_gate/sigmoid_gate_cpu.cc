#include "layers/ops/sigmoid_gate/sigmoid_gate.h"
#include "layers/ops/vector_math.h"

namespace conclave::cpu {

void sigmoid_gate(const SigmoidGateArgs& args) {
  const std::int64_t tokens = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float* logits = args.logits.data<float>();
  const float* all_x = args.x.data<float>();
  float* all_y = args.y.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float gate = vector_sigmoid(logits[t]);
    const float* x = all_x + t * width;
    float* y = all_y + t * width;
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) y[d] = gate * x[d];
  }
}

void sigmoid_gate_backward(const SigmoidGateBackwardArgs& args) {
  const std::int64_t tokens = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const float* logits = args.logits.data<float>();
  const float* all_x = args.x.data<float>();
  const float* all_dy = args.dy.data<float>();
  float* dlogits = args.dlogits.data<float>();
  float* all_dx = args.dx.data<float>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float gate = vector_sigmoid(logits[t]);
    const float* x = all_x + t * width;
    const float* dy = all_dy + t * width;
    float* dx = all_dx + t * width;
    float dgate = 0;
#pragma omp simd reduction(+ : dgate)
    for (std::int64_t d = 0; d < width; ++d) {
      dgate += dy[d] * x[d];
      dx[d] = gate * dy[d];
    }
    dlogits[t] = dgate * gate * (1.0F - gate);
  }
}

}  // namespace conclave::cpu
