#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

template <int kCount, class Element>
__global__ void swiglu_kernel(const Element* gate_up, Element* h, std::int64_t count, std::int64_t width) {
  const std::int64_t i = global_thread() * kCount;
  if (i >= count) return;
  const std::int64_t gate = i / width * 2 * width + i % width;
  float g[kCount];
  float u[kCount];
  load(g, gate_up + gate);
  load(u, gate_up + gate + width);
#pragma unroll
  for (int j = 0; j < kCount; ++j) g[j] = g[j] * sigmoid(g[j]) * u[j];
  store(h + i, g);
}

// Each thread reads its gates and ups before it writes them: dgate_up may be gate_up.
template <int kCount, class Element>
__global__ void swiglu_backward_kernel(const Element* gate_up, const Element* dh, Element* dgate_up,
                                       std::int64_t count, std::int64_t width) {
  const std::int64_t i = global_thread() * kCount;
  if (i >= count) return;
  const std::int64_t gate = i / width * 2 * width + i % width;
  float g[kCount];
  float u[kCount];
  float d[kCount];
  load(g, gate_up + gate);
  load(u, gate_up + gate + width);
  load(d, dh + i);
  float dgate[kCount];
  float dup[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float s = sigmoid(g[j]);
    // silu'(g) = s (1 + g (1 - s))
    dgate[j] = d[j] * u[j] * s * (1.0F + g[j] * (1.0F - s));
    dup[j] = d[j] * g[j] * s;
  }
  store(dgate_up + gate, dgate);
  store(dgate_up + gate + width, dup);
}

}  // namespace

void swiglu(StreamHandle stream, ConstElements gate_up, Elements h, std::int64_t T, std::int64_t F) {
  const std::int64_t count = T * F;
  if (count == 0) return;
  visit(h, [&]<class Element>(Element* result) {
    const auto* factors = static_cast<const Element*>(gate_up.data);
    with_vectors<kElementsOfAccess<Element>>(
        F,
        [&]<class Number>(Number) {
          constexpr int kCount = Number::value;
          launch("swiglu", stream, blocks_for(count / kCount), kThreads, 0, swiglu_kernel<kCount, Element>,
                 factors, result, count, F);
        },
        factors, result);
  });
}

void swiglu_backward(StreamHandle stream, ConstElements gate_up, ConstElements dh, Elements dgate_up,
                     std::int64_t T, std::int64_t F) {
  const std::int64_t count = T * F;
  if (count == 0) return;
  visit(dgate_up, [&]<class Element>(Element* result) {
    const auto* factors = static_cast<const Element*>(gate_up.data);
    const auto* gradients = static_cast<const Element*>(dh.data);
    with_vectors<kElementsOfAccess<Element>>(
        F,
        [&]<class Number>(Number) {
          constexpr int kCount = Number::value;
          launch("swiglu_backward", stream, blocks_for(count / kCount), kThreads, 0,
                 swiglu_backward_kernel<kCount, Element>, factors, gradients, result, count, F);
        },
        factors, gradients, result);
  });
}

}  // namespace conclave::cuda
