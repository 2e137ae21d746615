// Noisy top-K gating (Shazeer et al., "Outrageously large neural networks: the sparsely-gated
// mixture-of-experts layer", 2017):
//
//   h = x W_g^T + eps * deviation    eps ~ N(0, 1), deviation = softplus(x W_noise^T) + 0.01; in training
//   h = x W_g^T                      in evaluation
//   weights = softmax over the K largest h
//
// with the importance and load terms of variation_loss.h; load balance and z-loss are taken on h as well.
// The paper starts both matrices at 0, so that noise alone deals out the first tokens. Here W_g starts like
// every router's (moe.router_init_std: 0 is the paper's) and W_noise at 0, a deviation of ln 2 + 0.01 for
// every token: far above the first logits, so that the start is as balanced, and the network learns from
// there where it wants less noise.
#pragma once

#include <string>
#include <vector>

#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/linear_gate.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/softmax_choice.h"
#include "layers/moe/router/supervision.h"
#include "layers/moe/router/variation_loss.h"
#include "layers/tensor/philox.h"

namespace conclave {

class NoisyTopKRouter : public Router {
 public:
  // Parameters `name`.weight and `name`.noise_weight [E, D], replicated. Noise is drawn from (run.seed, name,
  // number of the token in the run, expert).
  NoisyTopKRouter(const config::Experiment& experiment, const std::string& name);

  // Weights times routed_scale.
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  // All [T, E].
  struct Logits {
    TensorView clean;      // x W_g^T
    TensorView noise;      // eps
    TensorView spread;     // x W_noise^T
    TensorView deviation;  // softplus(spread) + 0.01
    TensorView noisy;      // clean + noise * deviation
  };
  Logits noisy_logits(Context& ctx, ConstTensorView x) const;
  VariationGradient variation(Context& ctx, const Logits& logits, const SoftmaxChoice& choice,
                              ConstTensorView experts, MoeStatistics& statistics) const;
  // dnoisy [T, E] -> what it adds to dclean and, through the deviation, to dspread, which comes in as the
  // gradient of the deviation.
  void noise_backward(const Context& ctx, ConstTensorView dnoisy, TensorView dclean,
                      TensorView dspread) const;
  // dweights [T, K] and the gradient of the importance term.
  ConstTensorView with_importance(Context& ctx, ConstTensorView dweights) const;

  std::int64_t top_k_;
  float routed_scale_;
  bool force_balanced_;
  InputJitter jitter_;
  LinearGate gate_;        // W_g [E, D]
  LinearGate noise_gate_;  // W_noise [E, D]
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;
  VariationLoss variation_loss_;
  RandomStream random_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;  // [T, D]
    Logits logits;
    SoftmaxChoice choice;
    BalanceGradient balance;
    VariationGradient variation;
  };
  Saved saved_;
};

}  // namespace conclave
