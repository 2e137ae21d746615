#include "layers/ops/mixture_loss/mixture_loss.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

MixtureLossResult mixture_loss_on_gpu(Context& ctx, const MixtureLossArgs& args) {
  const std::int64_t samples = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const bool gradients = args.dlogits.elements() > 0;
  const Arena::Mark scratch(*ctx.arena);
  const auto doubles = [&](Shape shape) { return ctx.arena->allocate(shape, DType::kFloat64); };
  const TensorView terms = doubles({samples, 4});
  cuda::mixture_loss(cuda::stream_of(ctx),
                     {.samples = samples,
                      .experts = experts,
                      .width = args.targets.extent(1),
                      .precision = 1 / (args.sigma * args.sigma),
                      .scale = args.scale,
                      .logits = args.logits.data<float>(),
                      .outputs = args.outputs.data<float>(),
                      .row_of_choice = cuda::on_gpu<std::int32_t>(ctx, args.row_of_choice),
                      .targets = cuda::on_gpu<float>(ctx, args.targets),
                      .best = args.best.data<std::int32_t>(),
                      .terms = terms.data<double>(),
                      .gate = doubles({samples, experts}).data<double>(),
                      .posterior = doubles({samples, experts}).data<double>(),
                      .dlogits = gradients ? args.dlogits.data<float>() : nullptr,
                      .doutputs = gradients ? args.doutputs.data<float>() : nullptr});
  ctx.synchronize();
  MixtureLossResult result;
  for (std::int64_t t = 0; t < samples; ++t) {
    const double* of_sample = terms.data<double>() + 4 * t;
    result.loss_sum += of_sample[0];
    result.squared_error_sum += of_sample[1];
    result.best_squared_error_sum += of_sample[2];
    result.entropy_sum += of_sample[3];
  }
  return result;
}

}  // namespace

MixtureLossResult mixture_loss(Context& ctx, const MixtureLossArgs& args) {
  check_matrix(args.logits, "logits of mixture_loss");
  check_matrix(args.targets, "targets of mixture_loss");
  const std::int64_t samples = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t width = args.targets.extent(1);
  CONCLAVE_CHECK(experts > 0 && args.sigma > 0, "mixture_loss: {} experts, sigma {}", experts, args.sigma);
  check_shape(args.targets, {samples, width}, "targets of mixture_loss");
  check_shape(args.outputs, {samples * experts, width}, "outputs of mixture_loss");
  check_shape(args.best, {samples}, "best of mixture_loss");
  check_shape(args.row_of_choice, {samples * experts}, "rows of mixture_loss");
  const bool gradients = args.dlogits.elements() > 0;
  CONCLAVE_CHECK_EQ(gradients, args.doutputs.elements() > 0, "mixture_loss: both gradients or neither");
  if (gradients) {
    check_shape(args.dlogits, args.logits.shape(), "dlogits of mixture_loss");
    check_shape(args.doutputs, args.outputs.shape(), "doutputs of mixture_loss");
  }
  return ctx.on_gpu() ? mixture_loss_on_gpu(ctx, args) : cpu::mixture_loss(args);
}

}  // namespace conclave
