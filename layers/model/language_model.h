// The language model, causal (decoder-only) or, with model.causal: false, bidirectional: embedding, blocks, norm, head.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "configs/run.pb.h"
#include "layers/embedding/embedding.h"
#include "layers/loss/language_model_head.h"
#include "layers/model/transformer_block.h"

namespace conclave {

class LanguageModel {
 public:
  // Builds and initialises every parameter this rank holds; the same values in every layout. `experiment` is
  // resolved and validated; `grid` must outlive the model.
  LanguageModel(const config::Experiment& experiment, const ProcessGrid& grid);

  // tokens, targets int32 [T], T = ctx.batch.tokens(); a target of -1 is not predicted. Returns the sum of
  // -ln p(target) over this rank's targets and their number. In training the loss that is differentiated is
  // that sum / ctx.batch.loss_targets() plus the balance terms.
  LinearCrossEntropyResult forward(Context& ctx, ConstTensorView tokens, ConstTensorView targets);
  // Adds to every parameter's gradient; after a forward with ctx.training.
  void backward(Context& ctx);

  // What the model keeps from step to step beside its parameters (router biases), for checkpoints.
  std::vector<ShardedTensor> state();
  // Once after the update of each optimizer step; collective over the world.
  void end_step(Context& ctx);

  // tokens int32 [N], the N positions that follow what `caches` hold -> logits [1, V] of the last one. One
  // cache a layer, as made by make_caches; inference on a grid of one.
  TensorView next_token_logits(Context& ctx, ConstTensorView tokens, std::vector<KvCache>& caches);
  // Empty caches of `capacity` positions, one a layer.
  std::vector<KvCache> make_caches(std::int64_t capacity) const;

  // All parameters in a fixed order; they live as long as the model.
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // The MoE layers with the blocks they stand in, in order.
  struct IndexedMoeLayer {
    std::int64_t block;
    MoeLayer* layer;
  };
  const std::vector<IndexedMoeLayer>& moe_layers() const { return moe_layers_; }

 private:
  config::Model config_;
  Embedding embedding_;
  std::vector<std::unique_ptr<TransformerBlock>> blocks_;
  RmsNorm final_norm_;
  std::optional<LanguageModelHead> head_;  // set once the constructor knows whether it is tied
  std::vector<Parameter*> parameters_;
  std::vector<IndexedMoeLayer> moe_layers_;
};

}  // namespace conclave
