// The Mixture-of-Experts layer: every token passes the K experts that its router chooses, on whatever rank
// they live, and the shared experts if there are any (Shazeer et al. 2017; GShard, Lepikhin et al. 2021;
// shared experts: DeepSeekMoE, Dai et al. 2024).
//
//   y[t] = sum_k weight[t, k] * expert[t, k](x[t]) + shared(x[t])
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/module.h"
#include "layers/moe/dispatch_plan.h"
#include "layers/moe/exchange.h"
#include "layers/moe/experts.h"
#include "layers/moe/router/router.h"
#include "layers/moe/shared_experts.h"
#include "layers/moe/statistics.h"

namespace conclave {

class MoeLayer : public Module {
 public:
  // `name` is the global prefix of its parameters ("layers.3.moe"): name + ".router...", ".experts...",
  // ".shared...". The experiment is resolved (configs/resolve.h), its `moe` that of
  // this layer (configs/moe_layers.h); the grid, whose expert-parallel group holds
  // the experts, must outlive the layer.
  MoeLayer(const config::Experiment& experiment, const std::string& name, const ProcessGrid& grid);

  // x [T, D] -> y [T, D]; x must stay valid until backward. Collective over the grid also with T = 0.
  // Only training limits experts to their capacity, taken over the T tokens of this rank and micro-batch:
  // evaluation and generation drop nothing, so that a token's output never depends on its batch.
  TensorView forward(Context& ctx, ConstTensorView x) override;

  // dy [T, D] -> dx [T, D]: through the experts, the combine weights and balance terms, and
  // the shared experts. Collective over the grid. Expert gradients are sums over the tokens of
  // the expert-parallel group.
  TensorView backward(Context& ctx, ConstTensorView dy) override;

  void collect_parameters(std::vector<Parameter*>& parameters) override;
  // The router's state beside its parameters (router.h), and its part in the end of an optimizer step.
  void collect_state(std::vector<ShardedTensor>& state) { router_->collect_state(state); }
  void end_step(Context& ctx) { router_->end_step(ctx); }

  // What this rank counted in all forwards since the statistics were last taken.
  const MoeStatistics& statistics() const { return statistics_; }
  // Returns the statistics and goes on counting from `next`: from nothing, or from counts
  // that were set aside.
  MoeStatistics take_statistics(MoeStatistics next = {});

  std::int64_t experts() const { return config_.experts(); }
  std::int64_t top_k() const { return config_.top_k(); }

  // The choices of the last forward, training or not; valid until ctx.arena is reset.
  const Routing& last_routing() const { return routing_; }

 private:
  void count_statistics();
  // The number in the global batch of the token in each row of the plan: int64 [R, 1].
  TensorView token_numbers(Context& ctx) const;

  config::Moe config_;
  std::unique_ptr<Router> router_;
  DispatchPlan plan_;
  Exchange exchange_;
  Experts experts_;
  std::unique_ptr<SharedExperts> shared_;  // null without shared experts
  MoeStatistics statistics_;

  // Kept from forward.
  Routing routing_;           // [T, K]
  TensorView expert_output_;  // [R, D], in plan order
};

}  // namespace conclave
