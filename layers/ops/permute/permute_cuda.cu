#include "layers/cuda/launch.cuh"
#include "layers/cuda/vectors.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kNone = -1;       // kDroppedChoice, kNoChoiceOfRow
constexpr unsigned kThreadsOfRow = 128;  // a block a row or token

template <int kCount, class Element>
__global__ void gather_kernel(const float* x, const std::int32_t* choice_of_row, Element* rows,
                              std::int64_t top_k, std::int64_t width) {
  const std::int64_t r = blockIdx.x;
  const std::int32_t choice = choice_of_row[r];
  for (std::int64_t d = threadIdx.x * kCount; d < width; d += blockDim.x * kCount) {
    float values[kCount] = {};
    if (choice != kNone) load(values, x + choice / top_k * width + d);
    store(rows + r * width + d, values);
  }
}

template <int kCount, class Element>
__global__ void gather_backward_kernel(const Element* drows, const std::int32_t* row_of_choice, float* dx,
                                       std::int64_t top_k, std::int64_t width) {
  const std::int64_t token = blockIdx.x;
  for (std::int64_t d = threadIdx.x * kCount; d < width; d += blockDim.x * kCount) {
    float sums[kCount];
    load(sums, dx + token * width + d);
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_choice[token * top_k + k];
      if (row == kNone) continue;
      float gradients[kCount];
      load(gradients, drows + row * width + d);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sums[j] += gradients[j];
    }
    store(dx + token * width + d, sums);
  }
}

template <int kCount, class Element>
__global__ void combine_kernel(const Element* rows, const float* weights, const std::int32_t* row_of_choice,
                               float* y, bool accumulate, std::int64_t top_k, std::int64_t width) {
  const std::int64_t token = blockIdx.x;
  for (std::int64_t d = threadIdx.x * kCount; d < width; d += blockDim.x * kCount) {
    float sums[kCount] = {};
    if (accumulate) load(sums, y + token * width + d);
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_choice[token * top_k + k];
      if (row == kNone) continue;
      const float weight = weights[token * top_k + k];
      float values[kCount];
      load(values, rows + row * width + d);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sums[j] += weight * values[j];
    }
    store(y + token * width + d, sums);
  }
}

// A block a choice. Each element is read before it is written: drows may be rows.
template <int kCount, class Element>
__global__ void combine_backward_kernel(const float* dy, const Element* rows, const float* weights,
                                        const std::int32_t* row_of_choice, Element* drows, float* dweights,
                                        std::int64_t top_k, std::int64_t width) {
  __shared__ float scratch[kWarp];
  const std::int64_t choice = blockIdx.x;
  const std::int64_t row = row_of_choice[choice];
  float dweight = 0;
  if (row != kNone) {
    const float weight = weights[choice];
    const float* dy_of_token = dy + choice / top_k * width;
    for (std::int64_t d = threadIdx.x * kCount; d < width; d += blockDim.x * kCount) {
      float gradients[kCount];
      float values[kCount];
      load(gradients, dy_of_token + d);
      load(values, rows + row * width + d);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        dweight += gradients[j] * values[j];
        gradients[j] *= weight;
      }
      store(drows + row * width + d, gradients);
    }
  }
  dweight = sum_of_block(dweight, scratch);
  if (threadIdx.x == 0) dweights[choice] = dweight;
}

template <int kCount, class Element>
__global__ void clear_kernel(const std::int32_t* choice_of_row, Element* rows, std::int64_t width) {
  const std::int64_t r = blockIdx.x;
  if (choice_of_row[r] != kNone) return;
  const float zeros[kCount] = {};
  for (std::int64_t d = threadIdx.x * kCount; d < width; d += blockDim.x * kCount)
    store(rows + r * width + d, zeros);
}

}  // namespace

void gather_rows(StreamHandle stream, const float* x, const std::int32_t* choice_of_row, Elements rows,
                 std::int64_t R, std::int64_t K, std::int64_t D) {
  if (R * D == 0) return;
  visit(rows, [&]<class Element>(Element* result) {
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("gather_rows", stream, static_cast<unsigned>(R), kThreadsOfRow, 0,
                 gather_kernel<Number::value, Element>, x, choice_of_row, result, K, D);
        },
        x, result);
  });
}

void gather_rows_backward(StreamHandle stream, ConstElements drows, const std::int32_t* row_of_choice,
                          float* dx, std::int64_t T, std::int64_t K, std::int64_t D) {
  if (T * D == 0) return;
  visit(drows, [&]<class Element>(const Element* gradients) {
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("gather_rows_backward", stream, static_cast<unsigned>(T), kThreadsOfRow, 0,
                 gather_backward_kernel<Number::value, Element>, gradients, row_of_choice, dx, K, D);
        },
        gradients, dx);
  });
}

void combine_rows(StreamHandle stream, ConstElements rows, const float* weights,
                  const std::int32_t* row_of_choice, float* y, bool accumulate, std::int64_t T,
                  std::int64_t K, std::int64_t D) {
  if (T * D == 0) return;
  visit(rows, [&]<class Element>(const Element* values) {
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("combine_rows", stream, static_cast<unsigned>(T), kThreadsOfRow, 0,
                 combine_kernel<Number::value, Element>, values, weights, row_of_choice, y, accumulate, K, D);
        },
        values, y);
  });
}

void combine_rows_backward(StreamHandle stream, const float* dy, ConstElements rows, const float* weights,
                           const std::int32_t* row_of_choice, Elements drows, float* dweights, std::int64_t T,
                           std::int64_t K, std::int64_t D) {
  if (T * K == 0) return;
  visit(drows, [&]<class Element>(Element* gradients) {
    const auto* values = static_cast<const Element*>(rows.data);
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("combine_rows_backward", stream, static_cast<unsigned>(T * K), kThreadsOfRow, 0,
                 combine_backward_kernel<Number::value, Element>, dy, values, weights, row_of_choice,
                 gradients, dweights, K, D);
        },
        dy, values, gradients);
  });
}

void clear_rows_without_choice(StreamHandle stream, const std::int32_t* choice_of_row, Elements rows,
                               std::int64_t R, std::int64_t D) {
  if (R * D == 0) return;
  visit(rows, [&]<class Element>(Element* values) {
    with_vectors<kElementsOfAccess<Element>>(
        D,
        [&]<class Number>(Number) {
          launch("clear_rows_without_choice", stream, static_cast<unsigned>(R), kThreadsOfRow, 0,
                 clear_kernel<Number::value, Element>, choice_of_row, values, D);
        },
        values);
  });
}

}  // namespace conclave::cuda
