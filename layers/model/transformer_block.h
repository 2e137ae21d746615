// One pre-norm transformer block: h = x + attention(norm(x)); y = h + feed_forward(norm(h)).
// The feed-forward is dense or a Mixture of Experts. With train.recompute: block, backward computes the block
// again from x (Chen et al., "Training deep nets with sublinear memory cost", 2016), exchange included: of
// each block only x is kept.
#pragma once

#include <memory>
#include <string>

#include "configs/run.pb.h"
#include "layers/attention/attention.h"
#include "layers/module.h"
#include "layers/moe/moe_layer.h"
#include "layers/norm/rms_norm.h"

namespace conclave {

class TransformerBlock : public Module {
 public:
  // Block `layer` (from 0) of the model; parameters are named "layers.<layer>.…". The
  // configuration is resolved.
  TransformerBlock(const config::Experiment& experiment, std::int64_t layer, const ProcessGrid& grid);

  TensorView forward(Context& ctx, ConstTensorView x) override;
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;

  // The same function of x [N, D], N new positions of one sequence that continues `cache`; inference only.
  TensorView forward_cached(Context& ctx, ConstTensorView x, KvCache& cache);

  // The MoE layer, or null in a dense block. Owned by the block.
  MoeLayer* moe() const { return moe_; }

 private:
  TensorView compute(Context& ctx, ConstTensorView x);
  TensorView differentiate(Context& ctx, ConstTensorView dy);

  std::int64_t layer_;
  bool recompute_;  // train.recompute: block
  RmsNorm attention_norm_;
  Attention attention_;
  RmsNorm feed_forward_norm_;
  std::unique_ptr<Module> feed_forward_;
  MoeLayer* moe_ = nullptr;  // feed_forward_, where that is an MoE layer
  ConstTensorView x_;        // [T, D] of the last forward in training, where it is computed again
};

}  // namespace conclave
