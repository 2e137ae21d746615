// The last layer: hidden states to logits and to the language model's loss.
#pragma once

#include <optional>
#include <vector>

#include "layers/linear/linear_weight.h"
#include "layers/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "layers/parameter.h"

namespace conclave {

// Not a Module: its result is a scalar.
class LanguageModelHead {
 public:
  // Untied: the head has its own parameter "head.weight" [V, D] ~ N(0, init_std^2).
  LanguageModelHead(std::int64_t vocab_size, std::int64_t d_model, double init_std, std::uint64_t seed);
  // Tied: uses, and adds gradients to, another layer's weight [V, D], which must outlive the head and is
  // collected by its owner.
  explicit LanguageModelHead(Parameter& tied);
  LanguageModelHead(const LanguageModelHead&) = delete;
  LanguageModelHead& operator=(const LanguageModelHead&) = delete;

  // h [T, D], targets int32 [T] (LinearCrossEntropyArgs::kIgnore = no target). The training loss is
  // scale * loss_sum, with scale = 1 / tokens of the global batch; see linear_cross_entropy.h for why it must
  // be known here. In training the weight's gradient is complete when forward returns. With `losses` (fp32
  // [T]) the loss of each token is written too.
  LinearCrossEntropyResult forward(Context& ctx, ConstTensorView h, ConstTensorView targets, float scale,
                                   TensorView losses = {});
  // The gradient of scale * loss_sum by h, [T, D]; computed by the last forward in training.
  TensorView backward(Context& ctx);

  // h [T, D] -> logits [T, V] in ctx.arena, for generation.
  TensorView logits(Context& ctx, ConstTensorView h);

  void collect_parameters(std::vector<Parameter*>& parameters);

 private:
  std::optional<Parameter> own_;
  Parameter* weight_;
  LinearWeight products_;  // of weight_
  TensorView dh_;
};

}  // namespace conclave
