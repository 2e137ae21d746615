#include "layers/model/language_model.h"

#include <span>

namespace conclave {

LanguageModel::LanguageModel(const config::Experiment& experiment, const ProcessGrid& grid)
    : config_(experiment.model()),
      embedding_(experiment.model().vocab_size(), experiment.model().d_model(), experiment.model().init_std(),
                 experiment.run().seed()),
      final_norm_("final_norm", experiment.model().d_model(), experiment.model().norm_eps()) {
  const config::Model& model = experiment.model();
  for (std::int64_t layer = 0; layer < model.layers(); ++layer) {
    blocks_.push_back(std::make_unique<TransformerBlock>(experiment, layer, grid));
    if (MoeLayer* moe = blocks_.back()->moe()) moe_layers_.push_back({layer, moe});
  }
  if (model.tie_embeddings()) {
    head_.emplace(embedding_.weight());
  } else {
    head_.emplace(model.vocab_size(), model.d_model(), model.init_std(), experiment.run().seed());
  }

  embedding_.collect_parameters(parameters_);
  for (const auto& block : blocks_) {
    const auto first = static_cast<std::int64_t>(parameters_.size());
    block->collect_parameters(parameters_);
    parameters_of_block_.push_back({first, static_cast<std::int64_t>(parameters_.size())});
  }
  const auto first_after_blocks = static_cast<std::int64_t>(parameters_.size());
  final_norm_.collect_parameters(parameters_);
  head_->collect_parameters(parameters_);
  parameters_after_blocks_ = {first_after_blocks, static_cast<std::int64_t>(parameters_.size())};
  if (!experiment.optim().decay_embeddings()) {
    for (Parameter* parameter : parameters_) {
      if (parameter->name() == "embedding.weight" || parameter->name() == "head.weight")
        parameter->decays = false;
    }
  }
}

ModelLoss LanguageModel::forward(Context& ctx, ConstTensorView tokens, ConstTensorView targets) {
  ctx.token_ids = tokens;
  TensorView x = embedding_.forward(ctx, tokens);  // [T, D]
  for (const auto& block : blocks_) x = block->forward(ctx, x);
  const TensorView h = final_norm_.forward(ctx, x);  // [T, D]
  const float scale = 1.0F / static_cast<float>(ctx.batch.loss_targets());
  const Span span(ctx.clock, "head", TimePart::kOther);
  const LinearCrossEntropyResult result = head_->forward(ctx, h, targets, scale);
  return {.loss_sum = result.loss_sum, .targets = result.targets};
}

void LanguageModel::backward(Context& ctx) {
  TensorView dx = final_norm_.backward(ctx, head_->backward(ctx));  // [T, D]
  gradients_complete(ctx, parameters_after_blocks_);
  for (std::size_t layer = blocks_.size(); layer-- > 0;) {
    dx = blocks_[layer]->backward(ctx, dx);
    gradients_complete(ctx, parameters_of_block_[layer]);
  }
  embedding_.backward(ctx, dx);
}

void LanguageModel::gradients_complete(const Context& ctx, Range parameters) const {
  if (ctx.gradient_listener == nullptr) return;
  ctx.gradient_listener->gradients_complete(
      std::span(parameters_)
          .subspan(static_cast<std::size_t>(parameters.begin), static_cast<std::size_t>(parameters.size())));
}

std::vector<ShardedTensor> LanguageModel::state() {
  std::vector<ShardedTensor> state;
  for (const auto& block : blocks_) {
    if (MoeLayer* moe = block->moe()) moe->collect_state(state);
  }
  return state;
}

void LanguageModel::end_step(Context& ctx) {
  for (const auto& block : blocks_) {
    if (MoeLayer* moe = block->moe()) moe->end_step(ctx);
  }
}

TensorView LanguageModel::next_token_logits(Context& ctx, ConstTensorView tokens,
                                            std::vector<KvCache>& caches) {
  const std::int64_t positions = tokens.elements();
  ctx.token_ids = tokens;
  ctx.batch.sequences = 1;
  ctx.batch.sequence_length = positions;
  TensorView x = embedding_.forward(ctx, tokens);  // [N, D]
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    x = blocks_[layer]->forward_cached(ctx, x, caches[layer]);
  }
  const TensorView last = final_norm_.forward(ctx, x.rows(positions - 1, positions));  // [1, D]
  return head_->logits(ctx, last);                                                     // [1, V]
}

std::vector<KvCache> LanguageModel::make_caches(std::int64_t capacity, Device device) const {
  std::vector<KvCache> caches;
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    caches.emplace_back(capacity, config_.kv_heads() * config_.head_dim(), device);
  }
  return caches;
}

}  // namespace conclave
