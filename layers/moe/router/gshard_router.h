// GShard's top-2 router (Lepikhin et al., "GShard: scaling giant models with conditional computation and
// automatic sharding", 2021, algorithm 1): the two best experts by softmax(x W^T), with g1 + g2 = 1 the
// weights among the two. In training the second expert is kept with probability min(1, 2 g2) only, for a
// small weight isn't worth a place in an expert's capacity; its place stays empty and g1 stays as it is.
// Evaluation keeps both, and so does moe.force_balanced, which deals the experts in turn.
//
// Here the load-balance term counts all choices that were kept; GShard's counts first choices only.
#pragma once

#include <string>
#include <vector>

#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/linear_gate.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/softmax_choice.h"
#include "layers/moe/router/supervision.h"
#include "layers/tensor/philox.h"

namespace conclave {

class GshardRouter : public Router {
 public:
  // One parameter: `name`.weight [E, D], replicated. moe.top_k is 2. Chance is drawn from (run.seed, name,
  // number of the token in the run).
  GshardRouter(const config::Experiment& experiment, const std::string& name);

  // Weights are g * routed_scale, 0 for an empty place (whose dweights are 0).
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  // What is left of `choice`: without padding and, in training, without the second experts that chance drops.
  Routing keep(Context& ctx, const SoftmaxChoice& choice) const;

  float routed_scale_;
  bool force_balanced_;
  InputJitter jitter_;
  LinearGate gate_;  // W [E, D]
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;
  RandomStream random_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;     // [T, D]
    SoftmaxChoice choice;  // of both experts, before chance
    BalanceGradient balance;
  };
  Saved saved_;
};

}  // namespace conclave
