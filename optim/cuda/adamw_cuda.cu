#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "optim/cuda/kernels.h"

namespace conclave::cuda {
namespace {

__global__ void adamw_kernel(AdamWCoefficients c, const float* gradient, float* value, float* m, float* v,
                             std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i >= count) return;
  const float g = gradient[i] * c.gradient_scale;
  m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
  v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
  const float denominator = sqrtf(v[i]) * c.second_moment_root_scale + c.eps;
  value[i] = c.kept * value[i] - c.step_size * m[i] / denominator;
}

}  // namespace

void adamw(StreamHandle stream, const AdamWCoefficients& coefficients, const float* gradient, float* value,
           float* m, float* v, std::int64_t count) {
  if (count == 0) return;
  launch("adamw", stream, blocks_for(count), kThreads, 0, adamw_kernel, coefficients, gradient, value, m, v,
         count);
}

}  // namespace conclave::cuda
