// The softmax top-K router: logits = x W^T in fp32, p = softmax(logits), the K most probable
// experts. Weights are the chosen p, divided by their sum with moe.normalize_top_k (Mixtral),
// as they are without (Switch, OLMoE), times moe.routed_scale (DeepSeek-V2). In training moe.jitter puts
// noise on x (Switch); with moe.expert_groups only the experts of the moe.top_groups best groups compete
// (DeepSeek-V2). With moe.force_balanced the experts are dealt in turn instead (forced_balance.h).
#pragma once

#include "layers/moe/balance_loss.h"
#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/supervision.h"
#include "layers/ops/select_top_k.h"

namespace conclave {

class SoftmaxRouter : public Router {
 public:
  // One parameter: `name`.weight [E, D], replicated.
  SoftmaxRouter(const config::Experiment& experiment, const std::string& name);

  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  std::int64_t top_k_;
  bool normalize_;
  float routed_scale_;
  GroupLimit groups_;
  InputJitter jitter_;
  bool force_balanced_;
  Parameter weight_;  // W [E, D]
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;              // [T, D], as the router saw it
    ConstTensorView probabilities;  // [T, E]
    ConstTensorView experts;        // [T, K]
    ConstTensorView weights;        // [T, K]
    ConstTensorView log_sum_exp;    // [T]
    BalanceGradient balance;
  };
  Saved saved_;
};

}  // namespace conclave
