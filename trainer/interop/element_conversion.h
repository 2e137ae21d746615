// Between the element types of files and fp32.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "comm/base/dtype.h"

namespace conclave {

// F32, BF16, F16.
bool is_floating_point(DType dtype);

// bytes: elements of `dtype` at any address, as many as `out`. Throws Error for a type that is none of the
// above.
void to_float(std::span<const std::byte> bytes, DType dtype, std::span<float> out);
// values -> elements of `dtype`, rounded to nearest even; `out` holds as many.
void from_float(std::span<const float> values, DType dtype, std::span<std::byte> out);

// Index of the first NaN or infinity among elements of `dtype`. Throws Error for a type that is none of the
// above.
std::optional<std::size_t> first_not_finite(std::span<const std::byte> bytes, DType dtype);

}  // namespace conclave
