#include <dnnl.h>

#include <algorithm>

#include "layers/ops/gemm/gemm.h"

namespace conclave::cpu {

void gemm(const GemmArgs& args) {
  const std::int64_t m = args.c.extent(0);
  const std::int64_t n = args.c.extent(1);
  const std::int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  float* c = args.c.data<float>();
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (!args.accumulate) std::fill_n(c, m * n, 0.0F);
    return;
  }
  const dnnl_status_t status = dnnl_sgemm(args.transpose_a ? 'T' : 'N', args.transpose_b ? 'T' : 'N', m, n, k,
                                          1.0F, args.a.data<float>(), args.a.extent(1), args.b.data<float>(),
                                          args.b.extent(1), args.accumulate ? 1.0F : 0.0F, c, n);
  CONCLAVE_CHECK(status == dnnl_success, "oneDNN refused a gemm of {} x {} x {}: {}", m, n, k,
                 static_cast<int>(status));
}

}  // namespace conclave::cpu
