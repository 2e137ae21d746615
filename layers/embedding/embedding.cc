#include "layers/embedding/embedding.h"

#include "layers/ops/embedding/embedding.h"

namespace conclave {

Embedding::Embedding(std::int64_t vocab_size, std::int64_t d_model, double init_std, std::uint64_t seed)
    : weight_("embedding.weight", {vocab_size, d_model}) {
  weight_.initialise_normal(seed, init_std);
}

TensorView Embedding::forward(Context& ctx, ConstTensorView tokens) {
  const TensorView x = ctx.arena->allocate({tokens.elements(), weight_.value().extent(1)});
  embedding(ctx, {weight_.value(), tokens, x});
  if (ctx.training) tokens_ = tokens;
  return x;
}

void Embedding::backward(Context& ctx, ConstTensorView dx) {
  embedding_backward(ctx, {dx, tokens_, weight_.gradient()});
}

}  // namespace conclave
