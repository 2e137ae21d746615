// The shared experts of an MoE layer (DeepSeekMoE, Dai et al. 2024): one feed-forward that every token
// passes, as wide as all of them, with the choice of a gate a token (Qwen2-MoE):
//   y[t] = sigmoid(x[t] . w) shared(x[t])
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/feed_forward/feed_forward.h"
#include "layers/module.h"

namespace conclave {

class SharedExperts : public Module {
 public:
  // Parameters name + ".shared.…" of the feed-forward and, with moe.shared_gate, name + ".shared_gate" [1,
  // D], replicated. `experiment` is resolved and has shared experts.
  SharedExperts(const config::Experiment& experiment, const std::string& name);

  TensorView forward(Context& ctx, ConstTensorView x) override;
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void renew_copies(Context& ctx) { feed_forward_.renew_copies(ctx); }

 private:
  FeedForward feed_forward_;
  std::optional<Parameter> gate_;  // w [1, D]

  // Of the last forward in training, with a gate.
  ConstTensorView x_;   // [T, D]
  TensorView logits_;   // [T, 1]
  TensorView ungated_;  // [T, D]
};

}  // namespace conclave
