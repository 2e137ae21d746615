#include "layers/ops/gemm/gemm.h"

#include "layers/cuda/multiply.h"
#include "layers/ops/check_shape.h"

namespace conclave {

void gemm(Context& ctx, const GemmArgs& args) {
  CONCLAVE_CHECK(args.a.shape().rank() == 2 && args.b.shape().rank() == 2 && args.c.shape().rank() == 2,
                 "gemm takes matrices, found a {}, b {}, c {}", args.a.shape().text(), args.b.shape().text(),
                 args.c.shape().text());
  const std::int64_t m = args.a.extent(args.transpose_a ? 1 : 0);
  const std::int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  const std::int64_t k_of_b = args.b.extent(args.transpose_b ? 1 : 0);
  const std::int64_t n = args.b.extent(args.transpose_b ? 0 : 1);
  CONCLAVE_CHECK_EQ(k_of_b, k, "inner extent of gemm");
  check_shape(args.c, {m, n}, "result of gemm");
  const Span span(ctx.clock, "gemm", TimePart::kGemm);
  if (ctx.on_gpu()) return cuda::multiply(ctx, args);
  cpu::gemm(args);
}

}  // namespace conclave
