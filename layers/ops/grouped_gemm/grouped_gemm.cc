#include "layers/ops/grouped_gemm/grouped_gemm.h"

#include "layers/cuda/arguments.h"

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

// On a GPU.
void check_types(const ConstTensorView& left, const ConstTensorView& right, const ConstTensorView& result) {
  CONCLAVE_CHECK(
      left.dtype() == right.dtype() && (left.dtype() == DType::kFloat32 || left.dtype() == DType::kBFloat16),
      "a grouped gemm on a GPU takes factors that are both float32 or both bfloat16, found {} and {}",
      name_of(left.dtype()), name_of(right.dtype()));
  CONCLAVE_CHECK(result.dtype() == DType::kFloat32 || result.dtype() == left.dtype(),
                 "a grouped gemm of {} on a GPU has no result in {}", name_of(left.dtype()),
                 name_of(result.dtype()));
}

// `weights` [n, N, K], `rows` R; offsets that the host holds go to ctx.arena.
cuda::GroupedProblem problem_of(Context& ctx, const Shape& weights, std::int64_t rows,
                                const ConstTensorView& offsets) {
  return {.groups = weights[0],
          .rows = rows,
          .outputs = weights[1],
          .inputs = weights[2],
          .offsets = cuda::on_gpu<std::int64_t>(ctx, offsets)};
}

}  // namespace

void grouped_gemm(Context& ctx, const GroupedGemmArgs& args) {
  check(args.x.shape(), args.weights.shape(), args.y.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm", TimePart::kGemm);
  if (ctx.on_gpu()) {
    check_types(args.x, args.weights, args.y);
    const Arena::Mark scratch(*ctx.arena);
    cuda::grouped_gemm(cuda::stream_of(ctx),
                       problem_of(ctx, args.weights.shape(), args.x.extent(0), args.offsets),
                       cuda::elements_of(args.x), cuda::elements_of(args.weights), cuda::elements_of(args.y));
    return;
  }
  cpu::grouped_gemm(args);
}

void grouped_gemm_input_gradient(Context& ctx, const GroupedGemmInputGradientArgs& args) {
  check(args.dx.shape(), args.weights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dx", TimePart::kGemm);
  if (ctx.on_gpu()) {
    check_types(args.dy, args.weights, args.dx);
    const Arena::Mark scratch(*ctx.arena);
    cuda::grouped_gemm_input_gradient(
        cuda::stream_of(ctx), problem_of(ctx, args.weights.shape(), args.dy.extent(0), args.offsets),
        cuda::elements_of(args.dy), cuda::elements_of(args.weights), cuda::elements_of(args.dx));
    return;
  }
  cpu::grouped_gemm_input_gradient(args);
}

void grouped_gemm_weight_gradient(Context& ctx, const GroupedGemmWeightGradientArgs& args) {
  check(args.x.shape(), args.dweights.shape(), args.dy.shape(), args.offsets);
  const Span span(ctx.clock, "grouped gemm dW", TimePart::kGemm);
  if (ctx.on_gpu()) {
    check_types(args.dy, args.x, args.dweights);
    const Arena::Mark scratch(*ctx.arena);
    cuda::GroupedProblem problem = problem_of(ctx, args.dweights.shape(), args.dy.extent(0), args.offsets);
    problem.accumulate = args.accumulate;
    cuda::grouped_gemm_weight_gradient(cuda::stream_of(ctx), problem, cuda::elements_of(args.dy),
                                       cuda::elements_of(args.x), args.dweights.data<float>());
    return;
  }
  cpu::grouped_gemm_weight_gradient(args);
}

}  // namespace conclave
