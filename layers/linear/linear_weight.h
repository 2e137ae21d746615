// The matrix of a linear layer as its products want it: y = x W^T, W [N, K] or one for each of n experts
// [n, N, K].
//
// With ctx.compute fp32 the products read the parameter itself. With bf16 they read copies in bf16: on the
// host packed in the order of the forward product and in that of the input gradient, on a GPU one as it is.
// The copies are made by the first product after the parameter has changed, or by the update that changes it,
// once an optimizer step.
#pragma once

#include <cstdint>
#include <optional>

#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave {

class LinearWeight final : private ValueFollower {
 public:
  // A whole parameter [N, K] or [n, N, K]; it must outlive this, and not be updated afterwards.
  explicit LinearWeight(Parameter& parameter);
  // Rows `rows` of a parameter [N', K]: N = rows.size().
  LinearWeight(Parameter& parameter, Range rows);
  LinearWeight(const LinearWeight&) = delete;
  LinearWeight& operator=(const LinearWeight&) = delete;

  // Tensors may be fp32 or, with ctx.compute bf16, bf16. int64 `offsets` [n + 1] say which rows belong to
  // which expert; empty for an unstacked weight.

  // y [R, N] = x [R, K] W^T; y may be uninitialised.
  void forward(Context& ctx, ConstTensorView x, TensorView y, ConstTensorView offsets = {});
  // dx [R, K] = dy [R, N] W, or += with accumulate (unstacked only).
  void input_gradient(Context& ctx, ConstTensorView dy, TensorView dx, ConstTensorView offsets = {},
                      bool accumulate = false);
  // The parameter's gradient += dy [R, N]^T x [R, K].
  void weight_gradient(Context& ctx, ConstTensorView dy, ConstTensorView x, ConstTensorView offsets = {});

  // The packed copies, for operators that take them; ctx.compute must be bf16. Valid until the next change.
  ConstTensorView packed_for_forward(Context& ctx) { return packed(ctx, forward_, true); }
  ConstTensorView packed_for_input_gradient(Context& ctx) { return packed(ctx, backward_, false); }
  // The weight as a factor of products on the GPU of ctx, in ctx.compute: [N, K] or [n, N, K]. Valid until
  // the next change.
  ConstTensorView on_gpu(Context& ctx);
  // Makes that copy now, if the parameter has changed.
  void renew_copies(Context& ctx) { on_gpu(ctx); }

  std::int64_t outputs() const { return matrix_shape()[1]; }  // N
  std::int64_t inputs() const { return matrix_shape()[2]; }   // K

 private:
  // A copy in the order of one product, and the version of the parameter that it is of.
  struct Packed {
    Buffer buffer;
    std::optional<std::uint64_t> version;
    bool follows = false;  // an update that is under way
  };
  bool begin_update() override;
  void follow(Range rows) override;
  void end_update() override;
  void follow(Range rows, Packed& copy, bool transpose);
  bool is_stacked() const { return parameter_->global_shape().rank() == 3; }
  Shape matrix_shape() const;  // [n, N, K], n = 1 for an unstacked weight
  ConstTensorView value() const;
  bool is_whole() const { return is_stacked() || rows_.size() == parameter_->value().extent(0); }
  TensorView gradient() const;  // of rows_
  Parameter::GradientTarget gradient_target();
  void check_assigned(bool accumulate) const;
  // The up-to-date copy; `transpose` for the forward product.
  ConstTensorView packed(Context& ctx, Packed& copy, bool transpose);

  Parameter* parameter_;
  Range rows_;  // of an unstacked parameter
  Packed forward_;
  Packed backward_;
  Packed on_gpu_;  // not packed
};

}  // namespace conclave
