#include "layers/ops/rms_norm/rms_norm.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

// dresidual may be null.
void backward_on_gpu(Context& ctx, const RmsNormBackwardArgs& args, const float* dresidual) {
  const Arena::Mark scratch(*ctx.arena);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  const TensorView partial = ctx.arena->allocate({cuda::rms_norm_row_blocks(rows), width});
  cuda::rms_norm_backward(cuda::stream_of(ctx), args.dy.data<float>(), args.x.data<float>(),
                          args.weight.data<float>(), args.rstd.data<float>(), dresidual,
                          args.dx.data<float>(), args.dweight.data<float>(), partial.data<float>(), rows,
                          width);
}

}  // namespace

void rms_norm(Context& ctx, const RmsNormArgs& args) {
  check_matrix(args.x, "input of rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of rms_norm");
  check_shape(args.y, args.x.shape(), "result of rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of rms_norm");
  if (ctx.on_gpu()) {
    cuda::rms_norm(cuda::stream_of(ctx), args.x.data<float>(), nullptr, args.weight.data<float>(), nullptr,
                   cuda::elements_of(args.y), args.rstd.data<float>(), args.eps, args.x.extent(0),
                   args.x.extent(1));
    return;
  }
  cpu::rms_norm(args);
}

void rms_norm_backward(Context& ctx, const RmsNormBackwardArgs& args) {
  check_matrix(args.x, "input of rms_norm");
  check_shape(args.dy, args.x.shape(), "dy of rms_norm");
  check_shape(args.dx, args.x.shape(), "dx of rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of rms_norm");
  check_shape(args.dweight, {args.x.extent(1)}, "dweight of rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of rms_norm");
  if (ctx.on_gpu()) return backward_on_gpu(ctx, args, nullptr);
  cpu::rms_norm_backward(ctx, args);
}

void add_rms_norm(Context& ctx, const AddRmsNormArgs& args) {
  check_matrix(args.x, "residual of add_rms_norm");
  check_shape(args.delta, args.x.shape(), "delta of add_rms_norm");
  check_shape(args.residual_sum, args.x.shape(), "residual_sum of add_rms_norm");
  check_shape(args.y, args.x.shape(), "result of add_rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of add_rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of add_rms_norm");
  if (ctx.on_gpu()) {
    cuda::rms_norm(cuda::stream_of(ctx), args.x.data<float>(), args.delta.data<float>(),
                   args.weight.data<float>(), args.residual_sum.data<float>(), cuda::elements_of(args.y),
                   args.rstd.data<float>(), args.eps, args.x.extent(0), args.x.extent(1));
    return;
  }
  cpu::add_rms_norm(args);
}

void add_rms_norm_backward(Context& ctx, const AddRmsNormBackwardArgs& args) {
  check_matrix(args.residual_sum, "residual_sum of add_rms_norm");
  check_shape(args.dy, args.residual_sum.shape(), "dy of add_rms_norm");
  check_shape(args.dresidual_sum, args.residual_sum.shape(), "dresidual_sum of add_rms_norm");
  check_shape(args.dx, args.residual_sum.shape(), "dx of add_rms_norm");
  check_shape(args.weight, {args.residual_sum.extent(1)}, "weight of add_rms_norm");
  check_shape(args.dweight, {args.residual_sum.extent(1)}, "dweight of add_rms_norm");
  check_shape(args.rstd, {args.residual_sum.extent(0)}, "rstd of add_rms_norm");
  if (ctx.on_gpu()) {
    backward_on_gpu(ctx, {args.dy, args.residual_sum, args.weight, args.rstd, args.dx, args.dweight},
                    args.dresidual_sum.data<float>());
    return;
  }
  cpu::add_rms_norm_backward(ctx, args);
}

}  // namespace conclave
