// The language model, causal (decoder-only) or, with model.causal: false, bidirectional: embedding, blocks,
// norm, head.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "configs/run.pb.h"
#include "layers/embedding/embedding.h"
#include "layers/loss/language_model_head.h"
#include "layers/model/model.h"
#include "layers/model/transformer_block.h"

namespace conclave {

class LanguageModel : public Model {
 public:
  // Builds and initialises every parameter this rank holds; the same values in every layout. `experiment` is
  // resolved and validated; `grid` must outlive the model.
  LanguageModel(const config::Experiment& experiment, const ProcessGrid& grid);

  // tokens, targets int32 [T], T = ctx.batch.tokens(); a target of -1 is not predicted. The loss is the sum
  // of -ln p(target).
  ModelLoss forward(Context& ctx, ConstTensorView tokens, ConstTensorView targets) override;
  void backward(Context& ctx) override;
  std::vector<ShardedTensor> state() override;
  void end_step(Context& ctx) override;

  // tokens int32 [N], the N positions that follow what `caches` hold -> logits [1, V] of the last one. One
  // cache a layer, as made by make_caches; inference on a grid of one.
  TensorView next_token_logits(Context& ctx, ConstTensorView tokens, std::vector<KvCache>& caches);
  // Empty caches of `capacity` positions, one a layer.
  std::vector<KvCache> make_caches(std::int64_t capacity, Device device = {}) const;

 private:
  void gradients_complete(const Context& ctx, Range parameters) const;

  config::Model config_;
  Embedding embedding_;
  std::vector<std::unique_ptr<TransformerBlock>> blocks_;
  std::vector<Range> parameters_of_block_;  // indices into parameters_
  Range parameters_after_blocks_;
  RmsNorm final_norm_;
  std::optional<LanguageModelHead> head_;  // set once the constructor knows whether it is tied
};

}  // namespace conclave
