#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

__global__ void sigmoid_gate_kernel(const float* logits, const float* x, float* y, std::int64_t count,
                                    std::int64_t width) {
  const std::int64_t i = global_thread();
  if (i < count) y[i] = sigmoid(logits[i / width]) * x[i];
}

// A warp a token.
__global__ void sigmoid_gate_backward_kernel(const float* logits, const float* all_x, const float* all_dy,
                                             float* dlogits, float* all_dx, std::int64_t tokens,
                                             std::int64_t width) {
  const std::int64_t token = global_thread() / kWarp;
  if (token >= tokens) return;
  const float gate = sigmoid(logits[token]);
  const float* x = all_x + token * width;
  const float* dy = all_dy + token * width;
  float* dx = all_dx + token * width;
  float dgate = 0;
  for (std::int64_t d = threadIdx.x % kWarp; d < width; d += kWarp) {
    dgate += dy[d] * x[d];
    dx[d] = gate * dy[d];
  }
  dgate = sum_of_warp(dgate);
  if (threadIdx.x % kWarp == 0) dlogits[token] = dgate * gate * (1.0F - gate);
}

}  // namespace

void sigmoid_gate(StreamHandle stream, const float* logits, const float* x, float* y, std::int64_t T,
                  std::int64_t D) {
  if (T * D == 0) return;
  launch("sigmoid_gate", stream, blocks_for(T * D), kThreads, 0, sigmoid_gate_kernel, logits, x, y, T * D, D);
}

void sigmoid_gate_backward(StreamHandle stream, const float* logits, const float* x, const float* dy,
                           float* dlogits, float* dx, std::int64_t T, std::int64_t D) {
  if (T == 0) return;
  launch("sigmoid_gate_backward", stream, blocks_for(T * kWarp), kThreads, 0, sigmoid_gate_backward_kernel,
         logits, x, dy, dlogits, dx, T, D);
}

}  // namespace conclave::cuda
