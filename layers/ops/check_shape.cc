#include "layers/ops/check_shape.h"

namespace conclave {

void check_shape(const ConstTensorView& tensor, const Shape& expected, std::string_view what) {
  CONCLAVE_CHECK(tensor.shape() == expected, "{}: found the shape {}, expected {}", what,
                 tensor.shape().text(), expected.text());
}

void check_matrix(const ConstTensorView& tensor, std::string_view what) {
  CONCLAVE_CHECK(tensor.shape().rank() == 2, "{}: found the shape {}, expected a matrix", what,
                 tensor.shape().text());
}

}  // namespace conclave
