// Grouped products by the instructions that compute capability 9.0 alone has.
#pragma once

#include "layers/ops/grouped_gemm/grouped_products.cuh"

namespace conclave::cuda {

// True if this build has them and the current GPU does: then all products of bf16 go this way, so that bits
// depend on the GPU, but not on the shapes of the day.
bool has_warpgroup_products();

void multiply_rows_by_warpgroups(StreamHandle stream, const RowsProduct<Bf16>& product);
void sum_outer_products_by_warpgroups(StreamHandle stream, const OuterProducts<Bf16>& product);

}  // namespace conclave::cuda
