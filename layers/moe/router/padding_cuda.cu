#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

__global__ void clear_padding_kernel(const std::uint8_t* padding, float* rows, std::int64_t width,
                                     std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count && padding[i / width] != 0) rows[i] = 0.0F;
}

__global__ void without_padding_kernel(const std::uint8_t* padding, const std::int32_t* chosen,
                                       std::int32_t* experts, std::int64_t top_k, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count) experts[i] = padding[i / top_k] != 0 ? kNone : chosen[i];
}

}  // namespace

void clear_padding(StreamHandle stream, const std::uint8_t* padding, float* rows, std::int64_t T,
                   std::int64_t width) {
  if (T * width == 0) return;
  launch("clear_padding", stream, blocks_for(T * width), kThreads, 0, clear_padding_kernel, padding, rows,
         width, T * width);
}

void without_padding(StreamHandle stream, const std::uint8_t* padding, const std::int32_t* chosen,
                     std::int32_t* experts, std::int64_t T, std::int64_t K) {
  if (T * K == 0) return;
  launch("without_padding", stream, blocks_for(T * K), kThreads, 0, without_padding_kernel, padding, chosen,
         experts, K, T * K);
}

}  // namespace conclave::cuda
