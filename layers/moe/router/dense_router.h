// The dense mixture (Jacobs et al., "Adaptive mixtures of local experts", 1991): every token passes all
// experts, y = sum_e p[e] expert_e(x) with p = softmax(x W^T). There is nothing to choose, hence nothing to
// balance, and no expert may drop anything: moe.top_k is moe.experts and moe.capacity_factor dropless
// (configs/router_rules.cc).
#pragma once

#include <string>
#include <vector>

#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/linear_gate.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/softmax_choice.h"
#include "layers/moe/router/supervision.h"

namespace conclave {

class DenseRouter : public Router {
 public:
  // One parameter: `name`.weight [E, D], replicated.
  DenseRouter(const config::Experiment& experiment, const std::string& name);

  // Routing is [T, E], the experts of a token in descending order of weight; weights are p * routed_scale.
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  float routed_scale_;
  InputJitter jitter_;
  LinearGate gate_;  // W [E, D]
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;  // [T, D]
    SoftmaxChoice choice;
    BalanceGradient balance;
  };
  Saved saved_;
};

}  // namespace conclave
