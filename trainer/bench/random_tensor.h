// Operands of measurements.
#pragma once

#include <string>

#include "layers/tensor/arena.h"

namespace conclave::bench {

// Standard normal values of type float32 or bfloat16.
Buffer random_tensor(Shape shape, DType dtype, const std::string& name, Device device = {});

// Of weights and activations under precision.compute, by its name.
DType compute_dtype(const std::string& compute);

}  // namespace conclave::bench
