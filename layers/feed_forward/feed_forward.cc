#include "layers/feed_forward/feed_forward.h"

#include <optional>

#include "layers/ops/gemm/gemm.h"

namespace conclave {

FeedForward::FeedForward(std::string name, std::int64_t d_model, std::int64_t d_ff, double init_std,
                         double output_init_std, std::uint64_t seed, config::Activation activation)
    : activation_(activation),
      input_(name + input_projection_name(activation), {input_projections(activation) * d_ff, d_model}),
      down_(name + ".down", {d_model, d_ff}) {
  input_.initialise_normal(seed, init_std);
  down_.initialise_normal(seed, output_init_std);
}

TensorView FeedForward::forward(Context& ctx, ConstTensorView x) {
  const std::int64_t tokens = x.extent(0);
  const std::int64_t d_ff = down_.value().extent(1);
  const TensorView y = ctx.arena->allocate(x.shape());
  std::optional<Arena::Mark> scratch;
  if (!ctx.training) scratch.emplace(*ctx.arena);

  const TensorView preactivation = ctx.arena->allocate({tokens, input_projections(activation_) * d_ff});
  const TensorView h = ctx.arena->allocate({tokens, d_ff});
  gemm(ctx, {.a = x, .b = input_.value(), .c = preactivation, .transpose_b = true});
  hidden_layer(ctx, activation_, preactivation, h);
  gemm(ctx, {.a = h, .b = down_.value(), .c = y, .transpose_b = true});
  if (ctx.training) {
    x_ = x;
    preactivation_ = preactivation;
    h_ = h;
  }
  return y;
}

TensorView FeedForward::backward(Context& ctx, ConstTensorView dy) {
  const TensorView dx = ctx.arena->allocate(dy.shape());
  const Arena::Mark scratch(*ctx.arena);
  const TensorView dh = ctx.arena->allocate(h_.shape());
  const TensorView dpreactivation = ctx.arena->allocate(preactivation_.shape());

  gemm(ctx, {.a = dy, .b = down_.value(), .c = dh});
  gemm(ctx, {.a = dy, .b = h_, .c = down_.gradient(), .transpose_a = true, .accumulate = true});
  hidden_layer_backward(ctx, activation_, preactivation_, dh, dpreactivation);
  gemm(ctx, {.a = dpreactivation, .b = input_.value(), .c = dx});
  gemm(ctx, {.a = dpreactivation, .b = x_, .c = input_.gradient(), .transpose_a = true, .accumulate = true});
  return dx;
}

void FeedForward::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&input_);
  parameters.push_back(&down_);
}

}  // namespace conclave
