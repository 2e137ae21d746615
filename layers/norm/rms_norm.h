// RMS normalisation as a module: the op of layers/ops/rms_norm with its weight.
#pragma once

#include <string>
#include <vector>

#include "layers/module.h"

namespace conclave {

// Parameter name + ".weight" [D], initialised to 1, without weight decay.
class RmsNorm : public Module {
 public:
  // `width` is D: d_model, or head_dim when the rows are heads.
  RmsNorm(std::string name, std::int64_t width, double eps);

  // y in fp32; in ctx.compute where it is but a factor of products.
  TensorView forward(Context& ctx, ConstTensorView x) override { return forward(ctx, x, DType::kFloat32); }
  TensorView forward_to_factor(Context& ctx, ConstTensorView x) { return forward(ctx, x, ctx.compute); }
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override { parameters.push_back(&weight_); }

  // The same after the addition to the residual stream, in one pass: residual_sum = x + delta,
  // y = norm(residual_sum). Its backward is add_backward: dy and the gradient of residual_sum from its other
  // uses -> the gradient of x, which is also that of delta.
  struct AddResult {
    TensorView residual_sum;  // [T, D]
    TensorView y;             // [T, D]
  };
  AddResult add_forward(Context& ctx, ConstTensorView x, ConstTensorView delta);
  TensorView add_backward(Context& ctx, ConstTensorView dy, ConstTensorView dresidual_sum);

 private:
  TensorView forward(Context& ctx, ConstTensorView x, DType result);

  Parameter weight_;
  float eps_;
  // Of the last forward in training.
  ConstTensorView x_;     // [T, D], what was normalised
  ConstTensorView rstd_;  // [T]
};

}  // namespace conclave
