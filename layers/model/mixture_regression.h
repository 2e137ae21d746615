// Adaptive mixtures of local experts as a regression (Jacobs, Jordan, Nowlan and Hinton, 1991): every expert
// and the gate see the input, all experts answer, and the loss (layers/ops/mixture_loss) makes them compete
// for samples. The experts are feed-forward networks of one hidden layer, the gate is linear:
//
//   logits = W_gate [x, 1]          o[e] = expert e ([x, 1])
//
// Experts live on the ranks that the expert-parallel group gives them; each sample goes to all of them.
#pragma once

#include <vector>

#include "configs/run.pb.h"
#include "layers/model/model.h"
#include "layers/moe/dispatch_plan.h"
#include "layers/moe/exchange.h"
#include "layers/moe/experts.h"

namespace conclave {

class MixtureRegression : public Model, public RoutedLayer {
 public:
  // Parameters "gate.weight" [E, I + 1], and "experts..." as layers/moe/experts.h with inputs of width
  // I + 1 and outputs of width O; I and O are data.regression.inputs and .outputs, the last column of the
  // input matrices belongs to the constant 1. All are N(0, model.init_std^2).
  MixtureRegression(const config::Experiment& experiment, const ProcessGrid& grid);

  // inputs fp32 [T, I], targets fp32 [T, O], T = ctx.batch.tokens(). An expert's load is the number of
  // samples for which the gate gives it the largest probability.
  ModelLoss forward(Context& ctx, ConstTensorView inputs, ConstTensorView targets) override;
  void backward(Context& ctx) override;
  std::vector<ShardedTensor> state() override { return {}; }
  void end_step(Context&) override {}

  const MoeStatistics& statistics() override { return statistics_; }
  using RoutedLayer::take_statistics;
  MoeStatistics take_statistics(MoeStatistics next) override;
  std::int64_t experts() const override { return experts_count_; }
  std::int64_t top_k() const override { return 1; }  // of what is counted: the most probable expert
  const Routing& last_routing() const override { return routing_; }

 private:
  // The plan that sends every sample to every expert.
  void plan_all(Context& ctx, std::int64_t samples);
  void count(std::span<const std::int32_t> best, double entropy_sum);

  std::int64_t experts_count_;  // E
  std::int64_t inputs_;         // I
  std::int64_t outputs_;        // O
  double sigma_;
  Parameter gate_;
  DispatchPlan plan_;
  Exchange exchange_;
  Experts experts_;
  MoeStatistics statistics_;

  // Kept from forward.
  Routing routing_;      // [T, 1]
  TensorView x_;         // [T, I + 1]
  TensorView dlogits_;   // [T, E]
  TensorView doutputs_;  // [T E, O], in plan order
};

}  // namespace conclave
