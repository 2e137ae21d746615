#include "layers/ops/grouped_gemm/grouped_gemm.h"

#include "layers/cuda/multiply.h"

namespace conclave {
namespace {

// `inputs` [R, K] and `outputs` [R, N] are x and y or their gradients; `weights` [n, N, K].
void check(const Shape& inputs, const Shape& weights, const Shape& outputs,
           const ConstTensorView& offsets_of_experts) {
  CONCLAVE_CHECK(inputs.rank() == 2 && weights.rank() == 3 && outputs.rank() == 2 &&
                     inputs[0] == outputs[0] && weights[1] == outputs[1] && weights[2] == inputs[1],
                 "grouped gemm takes x [R, K], weights [n, N, K] and y [R, N]; found x {}, weights {}, y {}",
                 inputs.text(), weights.text(), outputs.text());
  CONCLAVE_CHECK_EQ(offsets_of_experts.elements(), weights[0] + 1, "offsets of a grouped gemm");
  if (offsets_of_experts.device().kind == DeviceKind::kCuda) return;
  const auto offsets = offsets_of_experts.values<std::int64_t>();
  CONCLAVE_CHECK_EQ(offsets.front(), 0, "first offset of a grouped gemm");
  CONCLAVE_CHECK_EQ(offsets.back(), inputs[0], "last offset of a grouped gemm, against its rows");
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    CONCLAVE_CHECK(offsets[e] <= offsets[e + 1], "offsets of a grouped gemm fall from {} to {} at expert {}",
                   offsets[e], offsets[e + 1], e);
  }
}

// On a GPU: one product an expert that has rows, in the stream's order.
template <class Multiply>
void for_each_group(const ConstTensorView& offsets_of_experts, Multiply multiply) {
  const auto offsets = offsets_of_experts.values<std::int64_t>();
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    if (offsets[e] < offsets[e + 1])
      multiply(static_cast<std::int64_t>(e), Range{offsets[e], offsets[e + 1]});
  }
}

ConstTensorView rows_of(const ConstTensorView& tensor, Range rows) {
  return tensor.rows(rows.begin, rows.end);
}

ConstTensorView matrix(const ConstTensorView& weights, std::int64_t e) {
  return weights.rows(e, e + 1).reshaped({weights.extent(1), weights.extent(2)});
}

}  // namespace

void grouped_gemm(Context& ctx, const GroupedGemmArgs& args) {
  check(args.x.shape(), args.weights.shape(), args.y.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm", TimePart::kGemm);
  if (ctx.on_gpu()) {
    for_each_group(args.offsets, [&](std::int64_t e, Range rows) {
      cuda::multiply(ctx, {.a = rows_of(args.x, rows),
                           .b = matrix(args.weights, e),
                           .c = args.y.rows(rows.begin, rows.end),
                           .transpose_b = true});
    });
    return;
  }
  cpu::grouped_gemm(args);
}

void grouped_gemm_input_gradient(Context& ctx, const GroupedGemmInputGradientArgs& args) {
  check(args.dx.shape(), args.weights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dx", TimePart::kGemm);
  if (ctx.on_gpu()) {
    for_each_group(args.offsets, [&](std::int64_t e, Range rows) {
      cuda::multiply(ctx, {.a = rows_of(args.dy, rows),
                           .b = matrix(args.weights, e),
                           .c = args.dx.rows(rows.begin, rows.end)});
    });
    return;
  }
  cpu::grouped_gemm_input_gradient(args);
}

void grouped_gemm_weight_gradient(Context& ctx, const GroupedGemmWeightGradientArgs& args) {
  check(args.x.shape(), args.dweights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dW", TimePart::kGemm);
  if (ctx.on_gpu()) {
    const Shape shape = args.dweights.shape();
    for_each_group(args.offsets, [&](std::int64_t e, Range rows) {
      cuda::multiply(ctx, {.a = rows_of(args.dy, rows),
                           .b = rows_of(args.x, rows),
                           .c = args.dweights.rows(e, e + 1).reshaped({shape[1], shape[2]}),
                           .transpose_a = true,
                           .accumulate = true});
    });
    return;
  }
  cpu::grouped_gemm_weight_gradient(args);
}

}  // namespace conclave
