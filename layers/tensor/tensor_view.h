// Typed, shaped, non-owning memory: the argument of every operator. Contiguous and row-major.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/base/buffer_view.h"
#include "comm/base/error.h"
#include "layers/tensor/shape.h"

namespace conclave {

namespace detail {
// Throws Error naming both types when they differ.
void check_dtype(DType actual, DType wanted, const Shape& shape);
// Throws Error unless 0 <= begin <= end <= shape[0].
void check_rows(const Shape& shape, std::int64_t begin, std::int64_t end);
}  // namespace detail

// What rows are numbered and counted by.
template <class T>
concept Index = std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t>;

class ConstTensorView {
 public:
  ConstTensorView() = default;
  ConstTensorView(const void* data, Shape shape, DType dtype, Device device = {})
      : data_(data), shape_(shape), dtype_(dtype), device_(device) {}
  // Indices in host memory, [count]; their owner must outlive the view.
  template <Index T>
  ConstTensorView(std::span<const T> indices)
      : ConstTensorView(indices.data(), {static_cast<std::int64_t>(indices.size())}, dtype_of<T>) {}
  template <Index T>
  ConstTensorView(const std::vector<T>& indices) : ConstTensorView(std::span<const T>(indices)) {}

  const Shape& shape() const { return shape_; }
  std::int64_t extent(int dimension) const { return shape_[dimension]; }
  std::int64_t elements() const { return shape_.elements(); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const void* raw() const { return data_; }

  // The elements as T; throws Error if T is not the dtype.
  template <class T>
  const T* data() const {
    detail::check_dtype(dtype_, dtype_of<T>, shape_);
    return static_cast<const T*>(data_);
  }
  template <class T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<std::size_t>(elements())};
  }
  // Rows [begin, end) of the first dimension.
  ConstTensorView rows(std::int64_t begin, std::int64_t end) const {
    detail::check_rows(shape_, begin, end);
    const auto skipped = static_cast<std::size_t>(begin * shape_.row_elements()) * size_of(dtype_);
    return {static_cast<const char*>(data_) + skipped, shape_.with_rows(end - begin), dtype_, device_};
  }
  // The same elements under another shape of as many elements.
  ConstTensorView reshaped(Shape shape) const {
    CONCLAVE_CHECK_EQ(shape.elements(), elements(), "elements of a reshaped tensor");
    return {data_, shape, dtype_, device_};
  }
  operator ConstBufferView() const { return {data_, elements(), dtype_, device_}; }

 private:
  const void* data_ = nullptr;
  Shape shape_{0};
  DType dtype_ = DType::kFloat32;
  Device device_ = {};
};

class TensorView {
 public:
  TensorView() = default;
  TensorView(void* data, Shape shape, DType dtype, Device device = {})
      : data_(data), shape_(shape), dtype_(dtype), device_(device) {}

  const Shape& shape() const { return shape_; }
  std::int64_t extent(int dimension) const { return shape_[dimension]; }
  std::int64_t elements() const { return shape_.elements(); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  void* raw() const { return data_; }

  template <class T>
  T* data() const {
    detail::check_dtype(dtype_, dtype_of<T>, shape_);
    return static_cast<T*>(data_);
  }
  template <class T>
  std::span<T> values() const {
    return {data<T>(), static_cast<std::size_t>(elements())};
  }
  TensorView rows(std::int64_t begin, std::int64_t end) const {
    detail::check_rows(shape_, begin, end);
    const auto skipped = static_cast<std::size_t>(begin * shape_.row_elements()) * size_of(dtype_);
    return {static_cast<char*>(data_) + skipped, shape_.with_rows(end - begin), dtype_, device_};
  }
  TensorView reshaped(Shape shape) const {
    CONCLAVE_CHECK_EQ(shape.elements(), elements(), "elements of a reshaped tensor");
    return {data_, shape, dtype_, device_};
  }
  operator ConstTensorView() const { return {data_, shape_, dtype_, device_}; }
  operator BufferView() const { return {data_, elements(), dtype_, device_}; }
  operator ConstBufferView() const { return {data_, elements(), dtype_, device_}; }

 private:
  void* data_ = nullptr;
  Shape shape_{0};
  DType dtype_ = DType::kFloat32;
  Device device_ = {};
};

// Views of host memory; the owner must outlive them.
template <class T>
TensorView tensor_view(std::span<T> values, Shape shape) {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(values.size()), shape.elements(),
                    "elements behind a tensor view");
  return {values.data(), shape, dtype_of<T>};
}
template <class T>
ConstTensorView tensor_view(std::span<const T> values, Shape shape) {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(values.size()), shape.elements(),
                    "elements behind a tensor view");
  return {values.data(), shape, dtype_of<T>};
}

}  // namespace conclave
