#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "optim/cuda/kernels.h"

namespace conclave::cuda {
namespace {

__device__ void update(const AdamWCoefficients& c, float gradient, float& value, float& m, float& v) {
  const float g = gradient * c.gradient_scale;
  m = c.beta1 * m + c.one_minus_beta1 * g;
  v = c.beta2 * v + c.one_minus_beta2 * (g * g);
  const float denominator = sqrtf(v) * c.second_moment_root_scale + c.eps;
  value = c.kept * value - c.step_size * m / denominator;
}

__device__ bool is_aligned(const AdamWPiece& piece) {
  const auto bits = reinterpret_cast<std::uintptr_t>(piece.gradient) |
                    reinterpret_cast<std::uintptr_t>(piece.value) |
                    reinterpret_cast<std::uintptr_t>(piece.m) | reinterpret_cast<std::uintptr_t>(piece.v);
  return bits % sizeof(float4) == 0;
}

// A block a piece: four elements at once where all four streams allow it, then what is left.
__global__ void adamw_kernel(AdamWCoefficientsByKind coefficients, const AdamWPiece* pieces) {
  const AdamWPiece piece = pieces[blockIdx.x];
  const AdamWCoefficients c = coefficients.of_kind[piece.kind];
  const std::int64_t fours = is_aligned(piece) ? piece.count / 4 : 0;
  for (std::int64_t i = threadIdx.x; i < fours; i += blockDim.x) {
    const float4 g = reinterpret_cast<const float4*>(piece.gradient)[i];
    float4 value = reinterpret_cast<const float4*>(piece.value)[i];
    float4 m = reinterpret_cast<const float4*>(piece.m)[i];
    float4 v = reinterpret_cast<const float4*>(piece.v)[i];
    update(c, g.x, value.x, m.x, v.x);
    update(c, g.y, value.y, m.y, v.y);
    update(c, g.z, value.z, m.z, v.z);
    update(c, g.w, value.w, m.w, v.w);
    reinterpret_cast<float4*>(piece.value)[i] = value;
    reinterpret_cast<float4*>(piece.m)[i] = m;
    reinterpret_cast<float4*>(piece.v)[i] = v;
  }
  for (std::int64_t i = 4 * fours + threadIdx.x; i < piece.count; i += blockDim.x)
    update(c, piece.gradient[i], piece.value[i], piece.m[i], piece.v[i]);
}

}  // namespace

void adamw(StreamHandle stream, const AdamWCoefficientsByKind& coefficients, const AdamWPiece* pieces,
           std::int64_t count) {
  if (count == 0) return;
  launch("adamw", stream, dim3(static_cast<unsigned>(count)), kThreads, 0, adamw_kernel, coefficients,
         pieces);
}

}  // namespace conclave::cuda
