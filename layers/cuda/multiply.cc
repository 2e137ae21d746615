#include "layers/cuda/multiply.h"

#include "comm/cuda/memory.h"
#include "layers/cuda/blas.h"

namespace conclave::cuda {

void multiply(Context& ctx, const GemmArgs& args) {
  CONCLAVE_CHECK(args.a.dtype() == args.b.dtype() &&
                     (args.a.dtype() == DType::kFloat32 || args.a.dtype() == DType::kBFloat16),
                 "a product on a GPU takes factors that are both float32 or both bfloat16, found {} and {}",
                 name_of(args.a.dtype()), name_of(args.b.dtype()));
  CONCLAVE_CHECK(args.c.dtype() == DType::kFloat32 || args.c.dtype() == args.a.dtype(),
                 "a product of {} on a GPU has no result in {}", name_of(args.a.dtype()),
                 name_of(args.c.dtype()));
  const std::int64_t m = args.c.extent(0);
  const std::int64_t n = args.c.extent(1);
  const std::int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (!args.accumulate)
      fill_with_zeros(ctx.gpu->stream(), args.c.raw(),
                      static_cast<std::size_t>(m * n) * size_of(args.c.dtype()));
    return;
  }
  ctx.gpu->blas().multiply({.m = m,
                            .n = n,
                            .k = k,
                            .factors = args.a.dtype(),
                            .result = args.c.dtype(),
                            .a = args.a.raw(),
                            .b = args.b.raw(),
                            .c = args.c.raw(),
                            .transpose_a = args.transpose_a,
                            .transpose_b = args.transpose_b,
                            .accumulate = args.accumulate});
}

}  // namespace conclave::cuda
