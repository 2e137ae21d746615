// Operators whose tensors may be fp32 or bf16 are written once, for a template parameter `Element`:
// to_float(x) reads one, set(x, value) rounds to it, and the arithmetic between is fp32.
#pragma once

#include "layers/tensor/tensor_view.h"

namespace conclave {

inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return static_cast<float>(x); }

inline void set(float& x, float value) { x = value; }
// Assigns the bits, not the struct: GCC 12 doesn't vectorise loops that copy structs.
inline void set(bfloat16& x, float value) { x.bits = bfloat16(value).bits; }

// Calls function(pointer to the elements) with their type, float or bfloat16. Throws Error for any other.
template <class Function>
void visit_elements(const ConstTensorView& tensor, Function function) {
  if (tensor.dtype() == DType::kBFloat16) {
    function(tensor.data<bfloat16>());
  } else {
    function(tensor.data<float>());
  }
}
template <class Function>
void visit_elements(const TensorView& tensor, Function function) {
  if (tensor.dtype() == DType::kBFloat16) {
    function(tensor.data<bfloat16>());
  } else {
    function(tensor.data<float>());
  }
}

}  // namespace conclave
