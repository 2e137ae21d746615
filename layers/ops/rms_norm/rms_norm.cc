#include "layers/ops/rms_norm/rms_norm.h"

#include "layers/ops/check_shape.h"

namespace conclave {

void rms_norm(Context&, const RmsNormArgs& args) {
  check_matrix(args.x, "input of rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of rms_norm");
  check_shape(args.y, args.x.shape(), "result of rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of rms_norm");
  cpu::rms_norm(args);
}

void rms_norm_backward(Context& ctx, const RmsNormBackwardArgs& args) {
  check_matrix(args.x, "input of rms_norm");
  check_shape(args.dy, args.x.shape(), "dy of rms_norm");
  check_shape(args.dx, args.x.shape(), "dx of rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of rms_norm");
  check_shape(args.dweight, {args.x.extent(1)}, "dweight of rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of rms_norm");
  cpu::rms_norm_backward(ctx, args);
}

void add_rms_norm(Context&, const AddRmsNormArgs& args) {
  check_matrix(args.x, "residual of add_rms_norm");
  check_shape(args.delta, args.x.shape(), "delta of add_rms_norm");
  check_shape(args.residual_sum, args.x.shape(), "residual_sum of add_rms_norm");
  check_shape(args.y, args.x.shape(), "result of add_rms_norm");
  check_shape(args.weight, {args.x.extent(1)}, "weight of add_rms_norm");
  check_shape(args.rstd, {args.x.extent(0)}, "rstd of add_rms_norm");
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
  cpu::add_rms_norm_backward(ctx, args);
}

}  // namespace conclave
