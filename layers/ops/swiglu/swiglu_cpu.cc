#include "layers/ops/swiglu/swiglu.h"
#include "layers/ops/vector_math.h"
#include "layers/tensor/visit_elements.h"

namespace conclave::cpu {
namespace {

template <class Element>
void forward(const SwigluArgs& args, Element* h) {
  const std::int64_t tokens = args.h.extent(0);
  const std::int64_t width = args.h.extent(1);
  const Element* gate_up = args.gate_up.data<Element>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Element* gate = gate_up + t * 2 * width;
    const Element* up = gate + width;
    Element* row = h + t * width;
#pragma omp simd
    for (std::int64_t f = 0; f < width; ++f) {
      const auto g = to_float(gate[f]);
      set(row[f], g * vector_sigmoid(g) * to_float(up[f]));
    }
  }
}

template <class Element>
void backward(const SwigluBackwardArgs& args, Element* dgate_up) {
  const std::int64_t tokens = args.dh.extent(0);
  const std::int64_t width = args.dh.extent(1);
  const Element* gate_up = args.gate_up.data<Element>();
  const Element* dh = args.dh.data<Element>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Element* gate = gate_up + t * 2 * width;
    const Element* up = gate + width;
    const Element* dh_row = dh + t * width;
    Element* dgate = dgate_up + t * 2 * width;
    Element* dup = dgate + width;
#pragma omp simd
    for (std::int64_t f = 0; f < width; ++f) {
      const auto g = to_float(gate[f]);
      const auto u = to_float(up[f]);
      const auto d = to_float(dh_row[f]);
      const float sigmoid = vector_sigmoid(g);
      // silu'(g) = sigmoid (1 + g (1 - sigmoid))
      set(dgate[f], d * u * sigmoid * (1.0F + g * (1.0F - sigmoid)));
      set(dup[f], d * g * sigmoid);
    }
  }
}

}  // namespace

void swiglu(const SwigluArgs& args) {
  visit_elements(args.h, [&](auto* h) { forward(args, h); });
}

void swiglu_backward(const SwigluBackwardArgs& args) {
  visit_elements(args.dgate_up, [&](auto* dgate_up) { backward(args, dgate_up); });
}

}  // namespace conclave::cpu
