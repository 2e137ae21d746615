#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

// A thread a pair of elements.
__global__ void rotary_kernel(float* x, const float* cosines, const float* sines, float direction,
                              std::int64_t pairs, std::int64_t heads, std::int64_t half,
                              std::int64_t sequence_length, std::int64_t first_position) {
  const std::int64_t pair = global_thread();
  if (pair >= pairs) return;
  const std::int64_t row = pair / half;  // one head of one token
  const std::int64_t i = pair % half;
  const std::int64_t position = first_position + row / heads % sequence_length;
  const float cosine = cosines[position * half + i];
  const float sine = direction * sines[position * half + i];
  float* first = x + row * 2 * half + i;
  float* second = first + half;
  const float a = *first;
  const float b = *second;
  *first = a * cosine - b * sine;
  *second = b * cosine + a * sine;
}

}  // namespace

void rotary(StreamHandle stream, float* x, const float* cosines, const float* sines, float direction,
            std::int64_t T, std::int64_t H, std::int64_t half, std::int64_t sequence_length,
            std::int64_t first_position) {
  const std::int64_t pairs = T * H * half;
  if (pairs == 0) return;
  launch("rotary", stream, blocks_for(pairs), kThreads, 0, rotary_kernel, x, cosines, sines, direction, pairs,
         H, half, sequence_length, first_position);
}

}  // namespace conclave::cuda
