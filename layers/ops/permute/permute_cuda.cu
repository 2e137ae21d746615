#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kNone = -1;       // kDroppedChoice, kNoChoiceOfRow
constexpr unsigned kThreadsOfRow = 128;  // a block a row or token

template <class Element>
__global__ void gather_kernel(const float* x, const std::int32_t* choice_of_row, Element* rows,
                              std::int64_t top_k, std::int64_t width) {
  const std::int64_t r = blockIdx.x;
  const std::int32_t choice = choice_of_row[r];
  for (std::int64_t d = threadIdx.x; d < width; d += blockDim.x)
    set(rows[r * width + d], choice == kNone ? 0.0F : x[choice / top_k * width + d]);
}

template <class Element>
__global__ void gather_backward_kernel(const Element* drows, const std::int32_t* row_of_choice, float* dx,
                                       std::int64_t top_k, std::int64_t width) {
  const std::int64_t token = blockIdx.x;
  for (std::int64_t d = threadIdx.x; d < width; d += blockDim.x) {
    float sum = dx[token * width + d];
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_choice[token * top_k + k];
      if (row != kNone) sum += to_float(drows[row * width + d]);
    }
    dx[token * width + d] = sum;
  }
}

template <class Element>
__global__ void combine_kernel(const Element* rows, const float* weights, const std::int32_t* row_of_choice,
                               float* y, bool accumulate, std::int64_t top_k, std::int64_t width) {
  const std::int64_t token = blockIdx.x;
  for (std::int64_t d = threadIdx.x; d < width; d += blockDim.x) {
    float sum = accumulate ? y[token * width + d] : 0.0F;
    for (std::int64_t k = 0; k < top_k; ++k) {
      const std::int64_t row = row_of_choice[token * top_k + k];
      if (row != kNone) sum += weights[token * top_k + k] * to_float(rows[row * width + d]);
    }
    y[token * width + d] = sum;
  }
}

// A block a choice. Each element is read before it is written: drows may be rows.
template <class Element>
__global__ void combine_backward_kernel(const float* dy, const Element* rows, const float* weights,
                                        const std::int32_t* row_of_choice, Element* drows, float* dweights,
                                        std::int64_t top_k, std::int64_t width) {
  __shared__ float scratch[kWarp];
  const std::int64_t choice = blockIdx.x;
  const std::int64_t row = row_of_choice[choice];
  float dweight = 0;
  if (row != kNone) {
    const float* dy_of_token = dy + choice / top_k * width;
    for (std::int64_t d = threadIdx.x; d < width; d += blockDim.x) {
      dweight += dy_of_token[d] * to_float(rows[row * width + d]);
      set(drows[row * width + d], weights[choice] * dy_of_token[d]);
    }
  }
  dweight = sum_of_block(dweight, scratch);
  if (threadIdx.x == 0) dweights[choice] = dweight;
}

template <class Element>
__global__ void clear_kernel(const std::int32_t* choice_of_row, Element* rows, std::int64_t width) {
  const std::int64_t r = blockIdx.x;
  if (choice_of_row[r] != kNone) return;
  for (std::int64_t d = threadIdx.x; d < width; d += blockDim.x) set(rows[r * width + d], 0.0F);
}

}  // namespace

void gather_rows(StreamHandle stream, const float* x, const std::int32_t* choice_of_row, Elements rows,
                 std::int64_t R, std::int64_t K, std::int64_t D) {
  if (R * D == 0) return;
  visit(rows, [&]<class Element>(Element* result) {
    launch("gather_rows", stream, static_cast<unsigned>(R), kThreadsOfRow, 0, gather_kernel<Element>, x,
           choice_of_row, result, K, D);
  });
}

void gather_rows_backward(StreamHandle stream, ConstElements drows, const std::int32_t* row_of_choice,
                          float* dx, std::int64_t T, std::int64_t K, std::int64_t D) {
  if (T * D == 0) return;
  visit(drows, [&]<class Element>(const Element* gradients) {
    launch("gather_rows_backward", stream, static_cast<unsigned>(T), kThreadsOfRow, 0,
           gather_backward_kernel<Element>, gradients, row_of_choice, dx, K, D);
  });
}

void combine_rows(StreamHandle stream, ConstElements rows, const float* weights,
                  const std::int32_t* row_of_choice, float* y, bool accumulate, std::int64_t T,
                  std::int64_t K, std::int64_t D) {
  if (T * D == 0) return;
  visit(rows, [&]<class Element>(const Element* values) {
    launch("combine_rows", stream, static_cast<unsigned>(T), kThreadsOfRow, 0, combine_kernel<Element>,
           values, weights, row_of_choice, y, accumulate, K, D);
  });
}

void combine_rows_backward(StreamHandle stream, const float* dy, ConstElements rows, const float* weights,
                           const std::int32_t* row_of_choice, Elements drows, float* dweights, std::int64_t T,
                           std::int64_t K, std::int64_t D) {
  if (T * K == 0) return;
  visit(drows, [&]<class Element>(Element* gradients) {
    launch("combine_rows_backward", stream, static_cast<unsigned>(T * K), kThreadsOfRow, 0,
           combine_backward_kernel<Element>, dy, static_cast<const Element*>(rows.data), weights,
           row_of_choice, gradients, dweights, K, D);
  });
}

void clear_rows_without_choice(StreamHandle stream, const std::int32_t* choice_of_row, Elements rows,
                               std::int64_t R, std::int64_t D) {
  if (R * D == 0) return;
  visit(rows, [&]<class Element>(Element* values) {
    launch("clear_rows_without_choice", stream, static_cast<unsigned>(R), kThreadsOfRow, 0,
           clear_kernel<Element>, choice_of_row, values, D);
  });
}

}  // namespace conclave::cuda
