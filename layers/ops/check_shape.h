// The check that every operator makes of its arguments.
#pragma once

#include <string_view>

#include "layers/tensor/tensor_view.h"

namespace conclave {

// Throws Error naming `what` and both shapes when they differ. Formats nothing otherwise: operators run in
// loops that must not allocate.
void check_shape(const ConstTensorView& tensor, const Shape& expected, std::string_view what);

// Throws Error naming `what` unless the tensor is a matrix.
void check_matrix(const ConstTensorView& tensor, std::string_view what);

}  // namespace conclave
