#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

template <class Element>
__global__ void swiglu_kernel(const Element* gate_up, Element* h, std::int64_t count, std::int64_t width) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const std::int64_t gate = i / width * 2 * width + i % width;
  const float g = to_float(gate_up[gate]);
  set(h[i], g * sigmoid(g) * to_float(gate_up[gate + width]));
}

// Each thread reads its gate and up before it writes them: dgate_up may be gate_up.
template <class Element>
__global__ void swiglu_backward_kernel(const Element* gate_up, const Element* dh, Element* dgate_up,
                                       std::int64_t count, std::int64_t width) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const std::int64_t gate = i / width * 2 * width + i % width;
  const float g = to_float(gate_up[gate]);
  const float u = to_float(gate_up[gate + width]);
  const float d = to_float(dh[i]);
  const float s = sigmoid(g);
  // silu'(g) = s (1 + g (1 - s))
  set(dgate_up[gate], d * u * s * (1.0F + g * (1.0F - s)));
  set(dgate_up[gate + width], d * g * s);
}

}  // namespace

void swiglu(StreamHandle stream, ConstElements gate_up, Elements h, std::int64_t T, std::int64_t F) {
  const std::int64_t count = T * F;
  if (count == 0) return;
  visit(h, [&]<class Element>(Element* result) {
    launch("swiglu", stream, blocks_for(count), kThreads, 0, swiglu_kernel<Element>,
           static_cast<const Element*>(gate_up.data), result, count, F);
  });
}

void swiglu_backward(StreamHandle stream, ConstElements gate_up, ConstElements dh, Elements dgate_up,
                     std::int64_t T, std::int64_t F) {
  const std::int64_t count = T * F;
  if (count == 0) return;
  visit(dgate_up, [&]<class Element>(Element* result) {
    launch("swiglu_backward", stream, blocks_for(count), kThreads, 0, swiglu_backward_kernel<Element>,
           static_cast<const Element*>(gate_up.data), static_cast<const Element*>(dh.data), result, count, F);
  });
}

}  // namespace conclave::cuda
