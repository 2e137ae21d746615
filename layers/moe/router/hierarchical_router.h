// The hierarchical router (Shazeer et al., "Outrageously large neural networks: the sparsely-gated
// mixture-of-experts layer", 2017, appendix B; its gates without noise): the experts form G groups of M = E /
// G neighbours; a gate over the groups picks the best H = top_groups, and within each of them a gate of its
// own picks K / H experts. Weights multiply, each level normalised over what it keeps:
//
//   a[g] = softmax among the H chosen groups of x U^T           U [G, D]
//   b[e] = softmax among the K / H chosen of e's group of x W^T   W [E, D]
//   weight[e] = a[group of e] * b[e]
//
// For the load-balance term P[t, e] = p(group of e) * p(e within its group), both over all there are. The
// z-loss sums the squares of the gate over groups and of the gates within the chosen groups.
#pragma once

#include <string>
#include <vector>

#include "layers/moe/balance_loss.h"
#include "layers/moe/router/hierarchical_gates.h"
#include "layers/moe/router/input_jitter.h"
#include "layers/moe/router/linear_gate.h"
#include "layers/moe/router/router.h"
#include "layers/moe/router/supervision.h"

namespace conclave {

class HierarchicalRouter : public Router {
 public:
  // Parameters `name`.group_weight [G, D] and `name`.weight [E, D], replicated.
  HierarchicalRouter(const config::Experiment& experiment, const std::string& name);

  // A token's experts in descending order of weight, ties to the lower id; weights times routed_scale.
  Routing forward(Context& ctx, ConstTensorView x, MoeStatistics& statistics) override;
  TensorView backward(Context& ctx, ConstTensorView dweights) override;
  bool has_kernels() const override { return !supervision_.is_on(); }
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  void collect_state(std::vector<ShardedTensor>&) override {}
  void end_step(Context&) override {}

 private:
  // Also the entropy [T] of the distribution over all experts.
  HierarchicalGates open_gates(Context& ctx, ConstTensorView x, TensorView entropy) const;
  BalanceGradient balance(Context& ctx, const HierarchicalGates& gates, ConstTensorView experts,
                          MoeStatistics& statistics);

  std::int64_t groups_, top_groups_, group_experts_, top_in_group_;  // G, H, M, K / H
  float routed_scale_;
  bool force_balanced_;
  InputJitter jitter_;
  LinearGate group_gate_;  // U [G, D]
  LinearGate gate_;        // W [E, D]
  BalanceLoss balance_loss_;
  RouterSupervision supervision_;

  // Of the last forward in training, in its arena.
  struct Saved {
    ConstTensorView x;      // [T, D]
    ConstTensorView order;  // [T, K]
    HierarchicalGates gates;
    BalanceGradient balance;
  };
  Saved saved_;
};

}  // namespace conclave
