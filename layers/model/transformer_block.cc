#include "layers/model/transformer_block.h"

#include <cstring>

#include "comm/cuda/memory.h"
#include "configs/moe_layers.h"
#include "configs/resolve.h"
#include "layers/feed_forward/feed_forward.h"
#include "layers/model/initialisation.h"
#include "layers/ops/add/add.h"

namespace conclave {
namespace {

std::string prefix(std::int64_t layer) { return fmt::format("layers.{}", layer); }

void copy_values(const Context& ctx, ConstTensorView from, TensorView to) {
  CONCLAVE_CHECK(from.dtype() == to.dtype() && from.elements() == to.elements(),
                 "a block gives {} elements, and takes {}", from.elements(), to.elements());
  const std::size_t bytes = static_cast<std::size_t>(from.elements()) * size_of(from.dtype());
  if (ctx.on_gpu()) {
    cuda::copy(ctx.gpu->stream(), to.raw(), from.raw(), bytes);
  } else if (bytes > 0) {
    std::memcpy(to.raw(), from.raw(), bytes);
  }
}

}  // namespace

TransformerBlock::TransformerBlock(const config::Experiment& experiment, std::int64_t layer,
                                   const ProcessGrid& grid)
    : layer_(layer),
      recompute_(experiment.train().recompute() == config::Train::block),
      attention_norm_(prefix(layer) + ".attention_norm", experiment.model().d_model(),
                      experiment.model().norm_eps()),
      attention_(experiment.model(), prefix(layer) + ".attention", experiment.model().init_std(),
                 residual_init_std(experiment.model()), experiment.run().seed()),
      feed_forward_norm_(prefix(layer) + ".feed_forward_norm", experiment.model().d_model(),
                         experiment.model().norm_eps()) {
  const config::Model& model = experiment.model();
  if (config::is_moe_layer(experiment, layer)) {
    auto moe = std::make_unique<MoeLayer>(config::experiment_of_layer(experiment, layer),
                                          prefix(layer) + ".moe", grid);
    moe_ = moe.get();
    feed_forward_ = std::move(moe);
  } else {
    feed_forward_ = std::make_unique<FeedForward>(prefix(layer) + ".feed_forward", model.d_model(),
                                                  model.d_ff(), model.init_std(), residual_init_std(model),
                                                  experiment.run().seed(), model.activation());
  }
}

TensorView TransformerBlock::forward(Context& ctx, ConstTensorView x) {
  const Span span(ctx.clock, "block", TimePart::kOther, ComparedCall::kNone, layer_);
  if (!recompute_ || !ctx.training) return compute(ctx, x);

  x_ = x;
  const TensorView y = ctx.arena->allocate(x.shape(), x.dtype());
  const Arena::Mark forgotten(*ctx.arena);
  copy_values(ctx, compute(ctx, x), y);
  return y;
}

TensorView TransformerBlock::backward(Context& ctx, ConstTensorView dy) {
  const Span span(ctx.clock, "block backward", TimePart::kOther, ComparedCall::kNone, layer_);
  if (!recompute_) return differentiate(ctx, dy);

  const TensorView dx = ctx.arena->allocate(x_.shape(), x_.dtype());
  const Arena::Mark forgotten(*ctx.arena);
  Context again = ctx;
  again.recomputing = true;
  compute(again, x_);
  copy_values(ctx, differentiate(ctx, dy), dx);
  return dx;
}

TensorView TransformerBlock::compute(Context& ctx, ConstTensorView x) {
  ctx.layer = layer_;
  const TensorView attended = attention_.forward(ctx, attention_norm_.forward_to_factor(ctx, x));  // [T, D]
  const auto [h, normed] = feed_forward_norm_.add_forward(ctx, x, attended);  // [T, D] each
  const TensorView y = feed_forward_->forward(ctx, normed);                   // [T, D]
  add(ctx, {.a = h, .b = y, .sum = y});
  return y;
}

TensorView TransformerBlock::differentiate(Context& ctx, ConstTensorView dy) {
  ctx.layer = layer_;
  const TensorView dnormed = feed_forward_->backward(ctx, dy);              // [T, D]
  const TensorView dh = feed_forward_norm_.add_backward(ctx, dnormed, dy);  // [T, D]
  const TensorView dattended = attention_.backward(ctx, dh);                // [T, D]
  const TensorView dx = attention_norm_.backward(ctx, dattended);           // [T, D]
  add(ctx, {.a = dh, .b = dx, .sum = dx});
  return dx;
}

TensorView TransformerBlock::forward_cached(Context& ctx, ConstTensorView x, KvCache& cache) {
  ctx.layer = layer_;
  const TensorView attended =
      attention_.forward_cached(ctx, attention_norm_.forward_to_factor(ctx, x), cache);  // [N, D]
  const auto [h, normed] = feed_forward_norm_.add_forward(ctx, x, attended);             // [N, D] each
  const TensorView y = feed_forward_->forward(ctx, normed);                              // [N, D]
  add(ctx, {.a = h, .b = y, .sum = y});
  return y;
}

void TransformerBlock::collect_parameters(std::vector<Parameter*>& parameters) {
  attention_norm_.collect_parameters(parameters);
  attention_.collect_parameters(parameters);
  feed_forward_norm_.collect_parameters(parameters);
  feed_forward_->collect_parameters(parameters);
}

}  // namespace conclave
