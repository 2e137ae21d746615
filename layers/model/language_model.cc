#include "layers/model/language_model.h"

#include <ranges>

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
  for (const auto& block : blocks_) block->collect_parameters(parameters_);
  final_norm_.collect_parameters(parameters_);
  head_->collect_parameters(parameters_);
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
  for (const auto& block : std::views::reverse(blocks_)) dx = block->backward(ctx, dx);
  embedding_.backward(ctx, dx);
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

std::vector<KvCache> LanguageModel::make_caches(std::int64_t capacity) const {
  std::vector<KvCache> caches;
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    caches.emplace_back(capacity, config_.kv_heads() * config_.head_dim());
  }
  return caches;
}

}  // namespace conclave
