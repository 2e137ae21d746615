// The extents of a tensor: up to four dimensions, row-major, contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace conclave {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  // Throws Error for more than kMaxRank extents or a negative one.
  Shape(std::initializer_list<std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int dimension) const { return extents_[static_cast<std::size_t>(dimension)]; }
  // Product of all extents; 1 for rank 0.
  std::int64_t elements() const;
  // Product of all extents but the first; 1 for rank 0 and 1.
  std::int64_t row_elements() const;
  // The same shape with another first extent; throws Error for rank 0.
  Shape with_rows(std::int64_t rows) const;
  // "[2, 3]".
  std::string text() const;

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace conclave
