// In builds that aren't for compute capability 9.0a.
#include "layers/ops/grouped_gemm/warpgroup_products.cuh"

namespace conclave::cuda {

bool has_warpgroup_products() { return false; }
void multiply_rows_by_warpgroups(StreamHandle, const RowsProduct<Bf16>&) {}
void sum_outer_products_by_warpgroups(StreamHandle, const OuterProducts<Bf16>&) {}

}  // namespace conclave::cuda
