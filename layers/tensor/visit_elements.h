// Operators whose tensors may be fp32 or bf16 are written once, for a template parameter `Element`:
// static_cast<float>(x) reads one, Element(value) rounds to it, and the arithmetic between is fp32.
#pragma once

#include "layers/tensor/tensor_view.h"

namespace conclave {

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
