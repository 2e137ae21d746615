// What the CPU kernels of attention share: strided matrices, their blocks, and who sees whom.
#pragma once

#include <cstdint>

#include "layers/tensor/tensor_view.h"

namespace conclave::cpu {

// A block of scores is kQueryBlock x kKeyBlock floats: two of them, and the rows of q, k, v and y that belong
// to them, fit into a core's L2 cache; oneDNN's gemm loses a third of its speed at half this width.
constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kKeyBlock = 128;
constexpr std::int64_t kScores = kQueryBlock * kKeyBlock;

// One head's columns of a wider row-major matrix.
template <class Float>
struct StridedMatrix {
  Float* data = nullptr;
  std::int64_t stride = 0;  // elements from one row to the next

  Float* row(std::int64_t index) const { return data + index * stride; }
  StridedMatrix from(std::int64_t first_row, std::int64_t first_column = 0) const {
    return {row(first_row) + first_column, stride};
  }
  operator StridedMatrix<const Float>() const { return {data, stride}; }
};
using ConstMatrix = StridedMatrix<const float>;
using Matrix = StridedMatrix<float>;

// The whole of a [rows, columns] tensor.
inline ConstMatrix matrix(const ConstTensorView& tensor) { return {tensor.data<float>(), tensor.extent(1)}; }
inline Matrix matrix(const TensorView& tensor) { return {tensor.data<float>(), tensor.extent(1)}; }

// uint8 [T], or null where there is no padding.
inline const std::uint8_t* padding_of(const ConstTensorView& padding) {
  return padding.elements() > 0 ? padding.data<std::uint8_t>() : nullptr;
}

// Where the queries of one sequence stand among its keys, and what they may see.
struct Visibility {
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  bool causal = true;
  const std::uint8_t* padding = nullptr;  // [keys], 1 for keys that nobody sees; null: there are none

  // Query `query` sees those of the keys [0, count) that are no padding.
  std::int64_t keys_of(std::int64_t query) const { return causal ? keys - queries + query + 1 : keys; }
};

}  // namespace conclave::cpu
