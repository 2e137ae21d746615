// The sigmoid router, balanced by a bias on its choice instead of by a loss (Wang et al.,
// "Auxiliary-loss-free load balancing strategy for mixture-of-experts", 2024; DeepSeek-AI, "DeepSeek-V3",
// 2024):
//
//   s = sigmoid(x W^T) in fp32; the K experts with the largest s + b; weights s, divided by their sum with
//   moe.normalize_top_k, times moe.routed_scale
//
// b has no gradient. After each global batch, with c[e] the choices of expert e in it before dropping, over
// all ranks and micro-batches, and u = moe.bias_update_rate:
//
//   b[e] += u * sign(mean(c) - c[e]);  b -= mean(b)
//
// The load-balance loss, where wanted beside it, takes P from s / sum_e s, as DeepSeek-V3's sequence loss
// does; the z-loss is of the logits. moe.jitter and moe.expert_groups as for the softmax router.
#pragma once

#include <vector>

#include "layers/moe/balance_loss.h"
#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/supervision.h"
#include "layers/ops/select_top_k.h"

namespace conclave {

class SigmoidRouter : public Router {
 public:
  // One parameter: `name`.weight [E, D], replicated. One state: `name`.bias [E], replicated, 0 at first.
  SigmoidRouter(const config::Experiment& experiment, const std::string& name);

  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void renew_copies(Context& ctx) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>& state) override;
  void end_step(Context& ctx) override;  // moves the bias

 private:
  // moe.force_balanced: experts in turn in place of the choice, weighed as ever. logits, probabilities [T,
  // E].
  void deal(Context& ctx, ConstTensorView logits, ConstTensorView probabilities, TensorView experts,
            TensorView weights) const;
  // The tokens of this micro-batch in `experts` [T, K] are choices of the step.
  void count_choices(const Context& ctx, ConstTensorView experts);
  void count_choices_on_gpu(const Context& ctx, ConstTensorView experts);

  std::int64_t top_k_;
  bool normalize_;
  float routed_scale_;
  GroupLimit groups_;
  bool force_balanced_;
  double bias_update_rate_;
  InputJitter jitter_;
  Parameter weight_;  // W [E, D]
  std::string bias_name_;
  Buffer bias_;  // b [E], fp32, on the host, which moves it
  Buffer bias_on_gpu_;
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;
  std::vector<std::int64_t> chosen_this_step_;  // c [E] of this rank's micro-batches of the step so far
  Buffer chosen_this_step_on_gpu_;              // of those that a GPU counted

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;              // [T, D], as the router saw it
    ConstTensorView logits;         // [T, E]
    ConstTensorView probabilities;  // [T, E]: s / sum_e s
    ConstTensorView experts;        // [T, K]
    ConstTensorView weights;        // [T, K]
    ConstTensorView log_sum_exp;    // [T]
    BalanceGradient balance;
  };
  Saved saved_;
};

}  // namespace conclave
