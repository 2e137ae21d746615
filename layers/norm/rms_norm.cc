#include "layers/norm/rms_norm.h"

#include "layers/ops/rms_norm/rms_norm.h"

namespace conclave {

RmsNorm::RmsNorm(std::string name, std::int64_t width, double eps)
    : weight_(name + ".weight", {width}), eps_(static_cast<float>(eps)) {
  weight_.decays = false;
  weight_.initialise_constant(1.0F);
}

TensorView RmsNorm::forward(Context& ctx, ConstTensorView x, DType result) {
  const TensorView y = ctx.arena->allocate(x.shape(), result);
  const TensorView rstd = ctx.arena->allocate({x.extent(0)});
  rms_norm(ctx, {x, weight_.value(), y, rstd, eps_});
  if (ctx.training) {
    x_ = x;
    rstd_ = rstd;
  }
  return y;
}

TensorView RmsNorm::backward(Context& ctx, ConstTensorView dy) {
  const TensorView dx = ctx.arena->allocate(dy.shape());
  rms_norm_backward(ctx, {dy, x_, weight_.value(), rstd_, dx, weight_.gradient()});
  return dx;
}

RmsNorm::AddResult RmsNorm::add_forward(Context& ctx, ConstTensorView x, ConstTensorView delta) {
  const AddResult result{ctx.arena->allocate(x.shape()), ctx.arena->allocate(x.shape())};
  const TensorView rstd = ctx.arena->allocate({x.extent(0)});
  add_rms_norm(ctx, {x, delta, weight_.value(), result.residual_sum, result.y, rstd, eps_});
  if (ctx.training) {
    x_ = result.residual_sum;
    rstd_ = rstd;
  }
  return result;
}

TensorView RmsNorm::add_backward(Context& ctx, ConstTensorView dy, ConstTensorView dresidual_sum) {
  const TensorView dx = ctx.arena->allocate(dy.shape());
  add_rms_norm_backward(ctx, {dy, dresidual_sum, x_, weight_.value(), rstd_, dx, weight_.gradient()});
  return dx;
}

}  // namespace conclave
