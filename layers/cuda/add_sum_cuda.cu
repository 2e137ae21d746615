#include "layers/cuda/add_sum.h"
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

constexpr unsigned kThreadsOfSum = 1024;

// One block.
template <class Value>
__global__ void add_sum_kernel(const Value* values, std::int64_t count, bool of_squares, double scale,
                               double* sum) {
  __shared__ double scratch[kWarp];
  double own = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreadsOfSum) {
    const auto value = static_cast<double>(values[i]);
    own += of_squares ? value * value : value;
  }
  const double all = sum_of_block(own, scratch);
  if (threadIdx.x == 0) *sum += scale * all;
}

}  // namespace

void add_sum(StreamHandle stream, const float* values, std::int64_t count, bool of_squares, double scale,
             double* sum) {
  if (count == 0) return;
  launch("add_sum", stream, 1, kThreadsOfSum, 0, add_sum_kernel<float>, values, count, of_squares, scale,
         sum);
}

void add_sum(StreamHandle stream, const double* values, std::int64_t count, double* sum) {
  if (count == 0) return;
  launch("add_sum", stream, 1, kThreadsOfSum, 0, add_sum_kernel<double>, values, count, false, 1.0, sum);
}

}  // namespace conclave::cuda
