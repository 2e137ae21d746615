#include "layers/ops/grouped_gemm/grouped_gemm.h"

namespace conclave {
namespace {

// `inputs` [R, K] and `outputs` [R, N] are x and y or their gradients; `weights` [n, N, K].
void check(const Shape& inputs, const Shape& weights, const Shape& outputs,
           std::span<const std::int64_t> offsets) {
  CONCLAVE_CHECK(inputs.rank() == 2 && weights.rank() == 3 && outputs.rank() == 2 &&
                     inputs[0] == outputs[0] && weights[1] == outputs[1] && weights[2] == inputs[1],
                 "grouped gemm takes x [R, K], weights [n, N, K] and y [R, N]; found x {}, weights {}, y {}",
                 inputs.text(), weights.text(), outputs.text());
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(offsets.size()), weights[0] + 1, "offsets of a grouped gemm");
  CONCLAVE_CHECK_EQ(offsets.front(), 0, "first offset of a grouped gemm");
  CONCLAVE_CHECK_EQ(offsets.back(), inputs[0], "last offset of a grouped gemm, against its rows");
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    CONCLAVE_CHECK(offsets[e] <= offsets[e + 1], "offsets of a grouped gemm fall from {} to {} at expert {}",
                   offsets[e], offsets[e + 1], e);
  }
}

}  // namespace

void grouped_gemm(Context& ctx, const GroupedGemmArgs& args) {
  check(args.x.shape(), args.weights.shape(), args.y.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm", TimePart::kGemm);
  cpu::grouped_gemm(args);
}

void grouped_gemm_input_gradient(Context& ctx, const GroupedGemmInputGradientArgs& args) {
  check(args.dx.shape(), args.weights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dx", TimePart::kGemm);
  cpu::grouped_gemm_input_gradient(args);
}

void grouped_gemm_weight_gradient(Context& ctx, const GroupedGemmWeightGradientArgs& args) {
  check(args.x.shape(), args.dweights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dW", TimePart::kGemm);
  cpu::grouped_gemm_weight_gradient(args);
}

}  // namespace conclave
