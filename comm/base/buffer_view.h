// Flat, typed, non-owning memory: what a collective sends and receives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/base/device.h"
#include "comm/base/dtype.h"

namespace conclave {

struct ConstBufferView {
  const void* data = nullptr;
  std::int64_t count = 0;  // elements
  DType dtype = DType::kFloat32;
  Device device = {};

  std::size_t bytes() const { return static_cast<std::size_t>(count) * size_of(dtype); }
};

struct BufferView {
  void* data = nullptr;
  std::int64_t count = 0;  // elements
  DType dtype = DType::kFloat32;
  Device device = {};

  std::size_t bytes() const { return static_cast<std::size_t>(count) * size_of(dtype); }
  operator ConstBufferView() const { return {data, count, dtype, device}; }
};

// A view of host memory; the span's owner must outlive it.
template <class T>
BufferView buffer_view(std::span<T> values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>, {}};
}
template <class T>
ConstBufferView buffer_view(std::span<const T> values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>, {}};
}

}  // namespace conclave
