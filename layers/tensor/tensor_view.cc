#include "layers/tensor/tensor_view.h"

namespace conclave::detail {

void check_dtype(DType actual, DType wanted, const Shape& shape) {
  CONCLAVE_CHECK(actual == wanted, "a tensor of shape {} holds {}, and was read as {}", shape.text(),
                 name_of(actual), name_of(wanted));
}

void check_rows(const Shape& shape, std::int64_t begin, std::int64_t end) {
  CONCLAVE_CHECK(shape.rank() > 0 && 0 <= begin && begin <= end && end <= shape[0],
                 "rows [{}, {}) of a tensor of shape {}", begin, end, shape.text());
}

}  // namespace conclave::detail
