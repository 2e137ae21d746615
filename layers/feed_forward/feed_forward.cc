#include "layers/feed_forward/feed_forward.h"

#include <optional>

#include "layers/ops/gemm/gemm.h"
#include "layers/ops/swiglu/swiglu.h"

namespace conclave {

FeedForward::FeedForward(std::string name, std::int64_t d_model, std::int64_t d_ff, double init_std,
                         double output_init_std, std::uint64_t seed)
    : gate_up_(name + ".gate_up", {2 * d_ff, d_model}), down_(name + ".down", {d_model, d_ff}) {
  gate_up_.initialise_normal(seed, init_std);
  down_.initialise_normal(seed, output_init_std);
}

TensorView FeedForward::forward(Context& ctx, ConstTensorView x) {
  const std::int64_t tokens = x.extent(0);
  const std::int64_t d_ff = down_.value().extent(1);
  const TensorView y = ctx.arena->allocate(x.shape());
  std::optional<Arena::Mark> scratch;
  if (!ctx.training) scratch.emplace(*ctx.arena);

  const TensorView preactivation = ctx.arena->allocate({tokens, 2 * d_ff});
  const TensorView h = ctx.arena->allocate({tokens, d_ff});
  gemm(ctx, {.a = x, .b = gate_up_.value(), .c = preactivation, .transpose_b = true});
  swiglu(ctx, {preactivation, h});
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
  swiglu_backward(ctx, {preactivation_, dh, dpreactivation});
  gemm(ctx, {.a = dpreactivation, .b = gate_up_.value(), .c = dx});
  gemm(ctx,
       {.a = dpreactivation, .b = x_, .c = gate_up_.gradient(), .transpose_a = true, .accumulate = true});
  return dx;
}

void FeedForward::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&gate_up_);
  parameters.push_back(&down_);
}

}  // namespace conclave
