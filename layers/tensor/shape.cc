#include "layers/tensor/shape.h"

#include <fmt/ranges.h>

#include <span>

#include "comm/base/error.h"

namespace conclave {

Shape::Shape(std::initializer_list<std::int64_t> extents) {
  CONCLAVE_CHECK(extents.size() <= kMaxRank, "a shape has at most {} dimensions, found {}", kMaxRank,
                 extents.size());
  for (const std::int64_t extent : extents) {
    CONCLAVE_CHECK(extent >= 0, "dimension {} of a shape is {}, and can't be negative", rank_, extent);
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }
}

std::int64_t Shape::elements() const { return rank_ == 0 ? 1 : extents_[0] * row_elements(); }

std::int64_t Shape::row_elements() const {
  std::int64_t product = 1;
  for (int dimension = 1; dimension < rank_; ++dimension) product *= (*this)[dimension];
  return product;
}

Shape Shape::with_rows(std::int64_t rows) const {
  CONCLAVE_CHECK(rank_ > 0, "a scalar has no rows");
  Shape shape = *this;
  shape.extents_[0] = rows;
  return shape;
}

std::string Shape::text() const {
  return fmt::format("{}", std::span(extents_.data(), static_cast<std::size_t>(rank_)));
}

}  // namespace conclave
