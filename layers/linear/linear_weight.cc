#include "layers/linear/linear_weight.h"

#include <array>

#include "layers/cuda/arguments.h"
#include "layers/cuda/factor.h"
#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/grouped_gemm/grouped_gemm.h"

namespace conclave {
namespace {

bool in_bf16(const Context& ctx) { return ctx.compute == DType::kBFloat16; }

// The offsets of a group of one: all rows belong to the one matrix.
class OneGroup {
 public:
  OneGroup(const ConstTensorView& offsets, std::int64_t rows) : all_{0, rows}, offsets_(all_) {
    if (offsets.elements() > 0) offsets_ = offsets.values<std::int64_t>();
  }
  OneGroup(const OneGroup&) = delete;
  OneGroup& operator=(const OneGroup&) = delete;
  std::span<const std::int64_t> offsets() const { return offsets_; }

 private:
  std::array<std::int64_t, 2> all_;
  std::span<const std::int64_t> offsets_;
};

}  // namespace

LinearWeight::LinearWeight(Parameter& parameter)
    : LinearWeight(parameter, {0, parameter.global_shape()[parameter.global_shape().rank() - 2]}) {}

LinearWeight::LinearWeight(Parameter& parameter, Range rows) : parameter_(&parameter), rows_(rows) {
  if (is_whole()) parameter.add_follower(*this);
}

static_assert(ValueFollower::kRowsAtOnce == kRowsPackedAtOnce);

bool LinearWeight::begin_update() {
  for (Packed* copy : {&forward_, &backward_}) copy->follows = copy->version == parameter_->version();
  return forward_.follows || backward_.follows;
}

void LinearWeight::follow(Range rows) {
  follow(rows, forward_, true);
  follow(rows, backward_, false);
}

void LinearWeight::follow(Range rows, Packed& copy, bool transpose) {
  if (!copy.follows) return;
  const std::int64_t of_matrix = matrix_shape()[1];
  const std::int64_t matrix = rows.begin / of_matrix;
  const std::int64_t first = matrix * of_matrix;
  pack_rows_of_right_side({.matrix = value()
                                         .reshaped({matrix_shape()[0] * of_matrix, matrix_shape()[2]})
                                         .rows(first, first + of_matrix),
                           .rows = {rows.begin - first, rows.end - first},
                           .transpose = transpose,
                           .packed = copy.buffer.view().rows(matrix, matrix + 1)});
}

void LinearWeight::end_update() {
  for (Packed* copy : {&forward_, &backward_}) {
    if (copy->follows) copy->version = parameter_->version();
  }
}

Shape LinearWeight::matrix_shape() const {
  const Shape shape = parameter_->value().shape();
  return is_stacked() ? shape : Shape{1, rows_.size(), shape[1]};
}

ConstTensorView LinearWeight::value() const {
  const ConstTensorView whole = parameter_->value();
  return is_stacked() ? whole : whole.rows(rows_.begin, rows_.end);
}

TensorView LinearWeight::gradient() const {
  const TensorView whole = parameter_->gradient();
  return is_stacked() ? whole : whole.rows(rows_.begin, rows_.end);
}

Parameter::GradientTarget LinearWeight::gradient_target() {
  if (is_whole()) return parameter_->gradient_target();
  return {.gradient = gradient(), .accumulate = true};
}

void LinearWeight::check_assigned(bool accumulate) const {
  CONCLAVE_CHECK(!accumulate, "the input gradient of stacked weights {} is assigned, not added",
                 parameter_->name());
}

ConstTensorView LinearWeight::packed(Context& ctx, Packed& copy, bool transpose) {
  const Shape shape = matrix_shape();
  if (copy.version != parameter_->version()) {
    const std::int64_t elements =
        transpose ? packed_elements(shape[2], shape[1]) : packed_elements(shape[1], shape[2]);
    if (!copy.version) copy.buffer = Buffer({shape[0], elements}, DType::kBFloat16);
    pack_right_side(
        ctx, {.matrices = value().reshaped(shape), .transpose = transpose, .packed = copy.buffer.view()});
    copy.version = parameter_->version();
  }
  return copy.buffer.view();
}

ConstTensorView LinearWeight::on_gpu(Context& ctx) {
  if (!in_bf16(ctx)) return value();
  if (on_gpu_.version != parameter_->version()) {
    if (!on_gpu_.version) on_gpu_.buffer = Buffer(value().shape(), DType::kBFloat16, ctx.gpu->device());
    cuda::convert(cuda::stream_of(ctx), cuda::elements_of(value()), cuda::elements_of(on_gpu_.buffer.view()),
                  value().elements());
    on_gpu_.version = parameter_->version();
  }
  return on_gpu_.buffer.view();
}

void LinearWeight::forward(Context& ctx, ConstTensorView x, TensorView y, ConstTensorView offsets) {
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    const ConstTensorView factor = cuda::as_factor(ctx, x, ctx.compute);
    if (is_stacked()) {
      grouped_gemm(ctx, {.x = factor, .weights = on_gpu(ctx), .offsets = offsets, .y = y});
    } else {
      gemm(ctx, {.a = factor, .b = on_gpu(ctx), .c = y, .transpose_b = true});
    }
  } else if (in_bf16(ctx)) {
    const OneGroup group(offsets, x.extent(0));
    bf16_grouped_gemm(ctx, {.x = x, .packed = packed_for_forward(ctx), .offsets = group.offsets(), .y = y});
  } else if (is_stacked()) {
    grouped_gemm(ctx, {.x = x, .weights = value(), .offsets = offsets, .y = y});
  } else {
    gemm(ctx, {.a = x, .b = value(), .c = y, .transpose_b = true});
  }
}

void LinearWeight::input_gradient(Context& ctx, ConstTensorView dy, TensorView dx, ConstTensorView offsets,
                                  bool accumulate) {
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    const ConstTensorView factor = cuda::as_factor(ctx, dy, ctx.compute);
    if (is_stacked()) {
      check_assigned(accumulate);
      grouped_gemm_input_gradient(ctx, {.dy = factor, .weights = on_gpu(ctx), .offsets = offsets, .dx = dx});
    } else {
      gemm(ctx, {.a = factor, .b = on_gpu(ctx), .c = dx, .accumulate = accumulate});
    }
  } else if (in_bf16(ctx)) {
    const OneGroup group(offsets, dy.extent(0));
    bf16_grouped_gemm(ctx, {.x = dy,
                            .packed = packed_for_input_gradient(ctx),
                            .offsets = group.offsets(),
                            .y = dx,
                            .accumulate = accumulate});
  } else if (is_stacked()) {
    check_assigned(accumulate);
    grouped_gemm_input_gradient(ctx, {.dy = dy, .weights = value(), .offsets = offsets, .dx = dx});
  } else {
    gemm(ctx, {.a = dy, .b = value(), .c = dx, .accumulate = accumulate});
  }
}

void LinearWeight::weight_gradient(Context& ctx, ConstTensorView dy, ConstTensorView x,
                                   ConstTensorView offsets) {
  const Parameter::GradientTarget target = gradient_target();
  if (!ctx.on_gpu() && in_bf16(ctx)) {
    const OneGroup group(offsets, x.extent(0));
    bf16_grouped_gemm_weight_gradient(ctx, {.dy = dy,
                                            .x = x,
                                            .offsets = group.offsets(),
                                            .dweights = target.gradient.reshaped(matrix_shape()),
                                            .accumulate = target.accumulate});
    return;
  }
  std::optional<Arena::Mark> scratch;
  if (ctx.on_gpu()) {
    scratch.emplace(*ctx.arena);
    dy = cuda::as_factor(ctx, dy, ctx.compute);
    x = cuda::as_factor(ctx, x, ctx.compute);
  }
  if (is_stacked()) {
    grouped_gemm_weight_gradient(
        ctx,
        {.dy = dy, .x = x, .offsets = offsets, .dweights = target.gradient, .accumulate = target.accumulate});
  } else {
    gemm(ctx, {.a = dy, .b = x, .c = target.gradient, .transpose_a = true, .accumulate = target.accumulate});
  }
}

}  // namespace conclave
