// Expert choice (Zhou et al., "Mixture-of-experts with expert choice routing", 2022): experts choose tokens.
//
//   p[t, e] = softmax over the experts of x[t] . W[e];   expert e takes the C tokens with the largest p[., e]
//
// within each sequence by itself, so that the result depends on no batch and no layout:
// C = ceil(capacity_factor * K * S / E), S the tokens of the sequence that are no padding. Ties keep the
// lower token. The weight of a choice is p, times moe.routed_scale; moe.normalize_top_k has no meaning here.
// Every expert takes equally many tokens by construction: there is no load-balance loss. In a causal model a
// token's experts depend on the tokens after it: configs/moe_rules.cc asks for moe.allow_future_leak.
#pragma once

#include "layers/moe/balance_loss.h"
#include "layers/moe/router/expert_choice.h"
#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/supervision.h"

namespace conclave {

class ExpertChoiceRouter : public Router {
 public:
  // One parameter: `name`.weight [E, D], replicated.
  ExpertChoiceRouter(const config::Experiment& experiment, const std::string& name);

  // Routing [T, E]: a token's experts in the order of descending p, then empty places. The capacity holds
  // outside of training too: it is what the choice is made by.
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  config::Moe config_;
  InputJitter jitter_;
  Parameter weight_;    // W [E, D]
  BalanceLoss z_loss_;  // without its load-balance term
  RouterSupervision supervision_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;              // [T, D]
    ConstTensorView probabilities;  // [T, E]
    ConstTensorView experts;        // [T, E]
    ConstTensorView weights;        // [T, E]
    ConstTensorView log_sum_exp;    // [T]
    BalanceGradient terms;
  };
  Saved saved_;
};

}  // namespace conclave
