#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"
#include "layers/cuda/philox.cuh"

namespace conclave::cuda {
namespace {

constexpr std::int64_t kDraws = 4;  // of one index of the stream

// A thread for the elements of a token that one index of the stream is for.
__global__ void input_jitter_kernel(RandomKey random, std::int64_t first_token, float jitter,
                                    const float* from, float* to, std::int64_t tokens, std::int64_t width) {
  const std::int64_t indices_a_token = (width + kDraws - 1) / kDraws;
  const std::int64_t t = global_thread() / indices_a_token;
  if (t >= tokens) return;
  const std::int64_t i = global_thread() % indices_a_token;
  const Uniforms uniforms = draw(random, static_cast<std::uint64_t>((first_token + t) * indices_a_token + i));
  for (std::int64_t d = i * kDraws; d < width && d < (i + 1) * kDraws; ++d)
    to[t * width + d] = from[t * width + d] * (1.0F - jitter + 2.0F * jitter * uniforms.value[d % kDraws]);
}

}  // namespace

void input_jitter(StreamHandle stream, RandomKey random, std::int64_t first_token, float jitter,
                  const float* from, float* to, std::int64_t T, std::int64_t D) {
  if (T * D == 0) return;
  launch("input_jitter", stream, blocks_for(T * ((D + kDraws - 1) / kDraws)), kThreads, 0,
         input_jitter_kernel, random, first_token, jitter, from, to, T, D);
}

}  // namespace conclave::cuda
