// The Mixture-of-Experts layer: every token passes the K experts that its router chooses, on whatever rank
// they live, and the shared experts if there are any (Shazeer et al. 2017; GShard, Lepikhin et al. 2021;
// shared experts: DeepSeekMoE, Dai et al. 2024).
//
//   y[t] = sum_k weight[t, k] * expert[t, k](x[t]) + shared(x[t])
//
// over the choices that were not dropped; with moe.renormalize_after_drop their weights are divided by their
// sum.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/cuda/replayed_passes.h"
#include "layers/module.h"
#include "layers/moe/dispatched_rows.h"
#include "layers/moe/exchange.h"
#include "layers/moe/experts.h"
#include "layers/moe/gpu_tally.h"
#include "layers/moe/routed_layer.h"
#include "layers/moe/router/router.h"
#include "layers/moe/routing_copy.h"
#include "layers/moe/shared_experts.h"
#include "layers/moe/statistics.h"
#include "layers/moe/survivor_weights.h"

namespace conclave {

class MoeLayer : public Module, public RoutedLayer {
 public:
  // `name` is the global prefix of its parameters ("layers.3.moe"): name + ".router...", ".experts...",
  // ".shared...". The experiment is resolved (configs/resolve.h), its `moe` that of
  // this layer (configs/moe_layers.h); the grid, whose expert-parallel group holds
  // the experts, must outlive the layer.
  MoeLayer(const config::Experiment& experiment, const std::string& name, const ProcessGrid& grid);

  // x [T, D] -> y [T, D]; x must stay valid until backward. Collective over the grid also with T = 0.
  // Only training limits experts to their capacity, taken over the T tokens of this rank and micro-batch:
  // evaluation and generation drop nothing, so that a token's output never depends on its batch. (Expert
  // choice never drops: its capacity is how it chooses, in evaluation too.) With moe.pad_to_capacity every
  // rank sends every expert the same number of rows in training, filled up with zeros.
  TensorView forward(Context& ctx, ConstTensorView x) override;

  // dy [T, D] -> dx [T, D]: through the experts, the combine weights and balance terms, and
  // the shared experts. Collective over the grid. Expert gradients are sums over the tokens of
  // the expert-parallel group.
  TensorView backward(Context& ctx, ConstTensorView dy) override;

  void collect_parameters(std::vector<Parameter*>& parameters) override;
  // The router's state beside its parameters (router.h), and its part in the end of an optimizer step.
  void collect_state(std::vector<ShardedTensor>& state) { router_->collect_state(state); }
  void end_step(Context& ctx) { router_->end_step(ctx); }

  // Micro-batches whose work on a GPU was launched as graphs so far (run.cuda_graphs), in passes.
  std::int64_t replays() const { return replayed_ != nullptr ? replayed_->replays() : 0; }

  const MoeStatistics& statistics() override;
  using RoutedLayer::take_statistics;
  MoeStatistics take_statistics(MoeStatistics next) override;
  std::int64_t experts() const override { return config_.experts(); }
  std::int64_t top_k() const override { return config_.top_k(); }
  const Routing& last_routing() const override;

 private:
  // What forward and backward do on the host, and enqueue on a GPU.
  TensorView compute(Context& ctx, ConstTensorView x);
  TensorView differentiate(Context& ctx, ConstTensorView dy);
  // What they enqueue is the same from one micro-batch to the next, and shall be recorded.
  bool is_replayed(const Context& ctx) const;
  // On ctx.gpu, what changes from step to step on the host, or in another format.
  void renew_copies(Context& ctx);
  // x [T, D] -> routing_.
  void route(Context& ctx, ConstTensorView x);
  // dweights [T, K] -> dx [T, D].
  TensorView route_backward(Context& ctx, ConstTensorView dweights);
  // Calls function(context) with the context that the router computes in: ctx, or one on the host.
  template <class Function>
  void with_router(Context& ctx, Function function);
  // routing_ -> which choice goes to which row; counts the choices.
  DispatchedRows dispatch(Context& ctx, std::int64_t capacity, bool fill_up);
  SurvivorWeightsArgs survivor_args() const;
  // K, or what the router makes of it.
  std::int64_t choices_a_token() const { return routing_.experts.extent(1); }
  // Rows that an expert takes from this rank's T tokens; padding is not counted.
  std::int64_t capacity_of(const Context& ctx, std::int64_t tokens) const;
  // moe.pad_to_capacity: the same on all ranks, that of the rank with the most sequences, padding included.
  std::int64_t agreed_capacity(const Context& ctx) const;
  void count_statistics();
  // The number in the global batch of the token in each row of the plan: int64 [R, 1].
  TensorView token_numbers(Context& ctx) const;
  // The rows of a chunk of the exchange: of [R', 1] numbers, or of nothing.
  ConstTensorView of_chunk(std::int64_t chunk, ConstTensorView rows) const;

  config::Moe config_;
  // Somebody looks at the routing (log.routing) when the memory of forward is given back (train.recompute).
  bool copies_routing_;
  std::unique_ptr<Router> router_;
  DispatchPlan plan_;  // on the host
  Exchange exchange_;
  Experts experts_;
  std::unique_ptr<SharedExperts> shared_;  // null without shared experts
  MoeStatistics statistics_;
  std::unique_ptr<cuda::ReplayedPasses> replayed_;  // null unless run.cuda_graphs
  std::unique_ptr<GpuTally> tally_;  // what isn't in statistics_ yet; null until a GPU computes

  // Kept from forward.
  Routing routing_;                  // [T, K]
  DispatchedRows dispatched_;        // of plan_, or on a GPU
  ConstTensorView combine_weights_;  // [T, K]: the router's, or what renormalize_after_drop makes of them
  TensorView expert_output_;         // [R, D], in plan order
  RoutingCopy routing_copy_;         // of the last forward in training, where copies_routing_
};

}  // namespace conclave
