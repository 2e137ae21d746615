#include "layers/ops/bf16_gemm/bf16_gemm.h"

#include "layers/ops/bf16_gemm/tile_kernels.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_products() {
  CONCLAVE_CHECK(has_bf16_products(),
                 "bf16 products need a processor with AVX512-BF16, and this one has none; "
                 "precision.compute: auto or fp32 runs here");
}

void check_element_type(const ConstTensorView& tensor, const char* what) {
  CONCLAVE_CHECK(tensor.dtype() == DType::kFloat32 || tensor.dtype() == DType::kBFloat16,
                 "{} is {}; bf16 products take float32 or bfloat16", what, name_of(tensor.dtype()));
}

void check_offsets(std::span<const std::int64_t> offsets, std::int64_t matrices, std::int64_t rows) {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(offsets.size()), matrices + 1,
                    "offsets of a bf16 grouped gemm");
  CONCLAVE_CHECK_EQ(offsets.front(), 0, "first offset of a bf16 grouped gemm");
  CONCLAVE_CHECK_EQ(offsets.back(), rows, "last offset of a bf16 grouped gemm, against its rows");
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    CONCLAVE_CHECK(offsets[e] <= offsets[e + 1], "offsets of a bf16 grouped gemm fall from {} to {} at {}",
                   offsets[e], offsets[e + 1], e);
  }
}

}  // namespace

bool has_bf16_products() { return cpu::bf16::supported(); }

std::int64_t packed_elements(std::int64_t k, std::int64_t n) {
  using namespace cpu::bf16;
  const std::int64_t panels = (n + kTileColumns - 1) / kTileColumns;
  return panels * pairs(k) * kTileColumns * 2;
}

void pack_right_side(Context& ctx, const PackRightSideArgs& args) {
  check_products();
  check_element_type(args.matrices, "a matrix to pack");
  CONCLAVE_CHECK(args.matrices.shape().rank() == 3, "pack_right_side takes [n, K, N], found {}",
                 args.matrices.shape().text());
  const std::int64_t k = args.matrices.extent(args.transpose ? 2 : 1);
  const std::int64_t n = args.matrices.extent(args.transpose ? 1 : 2);
  check_shape(args.packed, {args.matrices.extent(0), packed_elements(k, n)}, "packed matrices");
  const Span span(ctx.clock, "pack weights", TimePart::kGemm);
  cpu::pack_right_side(args);
}

void pack_rows_of_right_side(const PackRowsArgs& args) {
  check_matrix(args.matrix, "matrix to pack rows of");
  CONCLAVE_CHECK(args.rows.begin % kRowsPackedAtOnce == 0 && args.rows.size() <= kRowsPackedAtOnce &&
                     args.rows.end <= args.matrix.extent(0),
                 "rows [{}, {}) of {} can't be packed at once", args.rows.begin, args.rows.end,
                 args.matrix.extent(0));
  cpu::pack_rows_of_right_side(args);
}

void bf16_grouped_gemm(Context& ctx, const Bf16GroupedGemmArgs& args) {
  check_products();
  check_element_type(args.x, "x of a bf16 grouped gemm");
  check_element_type(args.y, "y of a bf16 grouped gemm");
  check_matrix(args.x, "x of a bf16 grouped gemm");
  check_matrix(args.y, "y of a bf16 grouped gemm");
  CONCLAVE_CHECK_EQ(args.y.extent(0), args.x.extent(0), "rows of y and x of a bf16 grouped gemm");
  const std::int64_t matrices = static_cast<std::int64_t>(args.offsets.size()) - 1;
  check_shape(args.packed, {matrices, packed_elements(args.x.extent(1), args.y.extent(1))},
              "packed matrices of a bf16 grouped gemm");
  check_offsets(args.offsets, matrices, args.x.extent(0));
  const Span span(ctx.clock, "bf16 gemm", TimePart::kGemm);
  cpu::bf16_grouped_gemm(ctx, args);
}

void bf16_grouped_gemm_weight_gradient(Context& ctx, const Bf16GroupedGemmWeightGradientArgs& args) {
  check_products();
  check_element_type(args.dy, "dy of a bf16 grouped gemm");
  check_element_type(args.x, "x of a bf16 grouped gemm");
  check_matrix(args.x, "x of a bf16 grouped gemm");
  check_matrix(args.dy, "dy of a bf16 grouped gemm");
  CONCLAVE_CHECK_EQ(args.dy.extent(0), args.x.extent(0), "rows of dy and x of a bf16 grouped gemm");
  const std::int64_t matrices = static_cast<std::int64_t>(args.offsets.size()) - 1;
  check_shape(args.dweights, {matrices, args.dy.extent(1), args.x.extent(1)},
              "dweights of a bf16 grouped gemm");
  check_offsets(args.offsets, matrices, args.x.extent(0));
  const Span span(ctx.clock, "bf16 gemm dW", TimePart::kGemm);
  cpu::bf16_grouped_gemm_weight_gradient(ctx, args);
}

}  // namespace conclave
