#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

// As in activation_cpu.cc: gelu(u) = u sigmoid(u (kLinear + kCubic u^2)).
constexpr float kLinear = 1.5957691216F;
constexpr float kCubic = 0.0713548163F;

template <class Element>
__global__ void activation_kernel(bool is_relu, const Element* up, Element* h, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const float u = to_float(up[i]);
  set(h[i], is_relu ? (u < 0.0F ? 0.0F : u) : u * sigmoid(u * (kLinear + kCubic * (u * u))));
}

template <class Element>
__global__ void activation_backward_kernel(bool is_relu, const Element* up, const Element* dh, Element* dup,
                                           std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const float u = to_float(up[i]);
  const float d = to_float(dh[i]);
  if (is_relu) {
    set(dup[i], u > 0.0F ? d : 0.0F);
    return;
  }
  const float square = u * u;
  const float s = sigmoid(u * (kLinear + kCubic * square));
  set(dup[i], d * (s + u * (kLinear + 3.0F * kCubic * square) * (s * (1.0F - s))));
}

}  // namespace

void activation(StreamHandle stream, bool is_relu, ConstElements up, Elements h, std::int64_t count) {
  if (count == 0) return;
  visit(h, [&]<class Element>(Element* result) {
    launch("activation", stream, blocks_for(count), kThreads, 0, activation_kernel<Element>, is_relu,
           static_cast<const Element*>(up.data), result, count);
  });
}

void activation_backward(StreamHandle stream, bool is_relu, ConstElements up, ConstElements dh, Elements dup,
                         std::int64_t count) {
  if (count == 0) return;
  visit(dup, [&]<class Element>(Element* result) {
    launch("activation_backward", stream, blocks_for(count), kThreads, 0, activation_backward_kernel<Element>,
           is_relu, static_cast<const Element*>(up.data), static_cast<const Element*>(dh.data), result,
           count);
  });
}

}  // namespace conclave::cuda
