#include "layers/ops/add/add.h"

namespace conclave::cpu {

void add(const AddArgs& args) {
  const float* a = args.a.data<float>();
  const float* b = args.b.data<float>();
  float* sum = args.sum.data<float>();
  const std::int64_t elements = args.sum.elements();
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < elements; ++i) sum[i] = a[i] + b[i];
}

}  // namespace conclave::cpu
