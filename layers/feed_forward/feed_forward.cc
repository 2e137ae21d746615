#include "layers/feed_forward/feed_forward.h"

#include <optional>

namespace conclave {

FeedForward::FeedForward(std::string name, std::int64_t d_model, std::int64_t d_ff, double init_std,
                         double output_init_std, std::uint64_t seed, config::Activation activation)
    : activation_(activation),
      input_(name + input_projection_name(activation), {input_projections(activation) * d_ff, d_model}),
      down_(name + ".down", {d_model, d_ff}),
      input_weight_(input_),
      down_weight_(down_) {
  input_.initialise_normal(seed, init_std);
  down_.initialise_normal(seed, output_init_std);
}

TensorView FeedForward::forward(Context& ctx, ConstTensorView x) {
  const std::int64_t tokens = x.extent(0);
  const TensorView y = ctx.arena->allocate(x.shape());
  std::optional<Arena::Mark> scratch;
  if (!ctx.training) scratch.emplace(*ctx.arena);

  const TensorView preactivation = ctx.arena->allocate({tokens, input_weight_.outputs()}, ctx.compute);
  const TensorView h = ctx.arena->allocate({tokens, down_weight_.inputs()}, ctx.compute);
  input_weight_.forward(ctx, x, preactivation);
  ctx.progress();  // as shared experts, while rows travel
  hidden_layer(ctx, activation_, preactivation, h);
  down_weight_.forward(ctx, h, y);
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
  const TensorView dh = ctx.arena->allocate(h_.shape(), h_.dtype());
  const TensorView dpreactivation = ctx.arena->allocate(preactivation_.shape(), h_.dtype());

  down_weight_.input_gradient(ctx, dy, dh);
  ctx.progress();
  down_weight_.weight_gradient(ctx, dy, h_);
  ctx.progress();
  hidden_layer_backward(ctx, activation_, preactivation_, dh, dpreactivation);
  input_weight_.input_gradient(ctx, dpreactivation, dx);
  ctx.progress();
  input_weight_.weight_gradient(ctx, dpreactivation, x_);
  return dx;
}

void FeedForward::renew_copies(Context& ctx) {
  input_weight_.renew_copies(ctx);
  down_weight_.renew_copies(ctx);
}

void FeedForward::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&input_);
  parameters.push_back(&down_);
}

}  // namespace conclave
