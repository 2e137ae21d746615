// The same global batch as 1, 2 and 4 micro-batches, for every router: counts, metrics, the loss terms within
// sequences and the bias that balances a router are those of the whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/routing_summary.h"
#include "trainer/train_step.h"

namespace conclave {
namespace {

struct Outcome {
  StepResult step;
  RoutingSummary routing;
  std::vector<float> bias;
};

class AccumulationTest : public testing::TestWithParam<std::string> {
 protected:
  AccumulationTest() {
    test::apply(experiment_, GetParam());
    config::Moe& moe = *experiment_.mutable_moe();
    // Capacities are of a micro-batch, and so would be what is dropped.
    if (moe.router() != config::Moe::expert_choice) moe.set_capacity_factor(0);
    moe.set_balance_scope(config::Moe::sequence);
    if (moe.router() != config::Moe::hash) moe.set_z_loss(1e-3);
    experiment_.mutable_model()->set_init_std(0.5);  // routers with opinions
  }

  Outcome take_step(std::int64_t micro_batch) {
    experiment_.mutable_train()->set_micro_batch(micro_batch);
    Trainer trainer(experiment_, *alone_);
    Outcome outcome{.step = train_step(trainer, 0), .routing = {}, .bias = {}};
    outcome.routing = take_routing_summary(trainer.model, *alone_);
    for (const ShardedTensor& tensor : trainer.model.state()) {
      if (!tensor.name.ends_with(".bias")) continue;  // a hash router's table never moves
      const auto values = ConstTensorView(tensor.local).values<float>();
      outcome.bias.insert(outcome.bias.end(), values.begin(), values.end());
    }
    return outcome;
  }

  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  config::Experiment experiment_ = test::tiny_experiment(test::tiny_text_file());
};

TEST_P(AccumulationTest, ChangesNothing) {
  const Outcome whole = take_step(4);
  // Sums of other numbers of rows in another order, through two blocks; gradients are compared in
  // train_step_test by a measured bound.
  const double tolerance = 1e4 * std::numeric_limits<float>::epsilon();
  const auto expect_near = [&](double actual, double expected) {
    EXPECT_NEAR(actual, expected, tolerance * std::abs(expected));
  };
  EXPECT_EQ(whole.bias.empty(), GetParam() != "sigmoid");
  for (const std::int64_t micro_batch : {2, 1}) {
    SCOPED_TRACE(testing::Message() << "micro_batch " << micro_batch);
    const Outcome cut = take_step(micro_batch);
    expect_near(cut.step.loss, whole.step.loss);
    EXPECT_EQ(cut.step.tokens, whole.step.tokens);
    EXPECT_EQ(cut.bias, whole.bias);
    ASSERT_EQ(cut.routing.layers.size(), whole.routing.layers.size());
    for (std::size_t i = 0; i < whole.routing.layers.size(); ++i) {
      const MoeStatistics& actual = cut.routing.layers[i];
      const MoeStatistics& expected = whole.routing.layers[i];
      EXPECT_EQ(actual.tokens, expected.tokens);
      EXPECT_EQ(actual.chosen_per_expert, expected.chosen_per_expert);
      EXPECT_EQ(actual.chosen_per_choice, expected.chosen_per_choice);
      EXPECT_EQ(actual.dropped_per_choice, expected.dropped_per_choice);
      EXPECT_EQ(actual.sent_per_rank, expected.sent_per_rank);
      expect_near(actual.router_entropy_sum, expected.router_entropy_sum);
      expect_near(actual.balance_loss_raw, expected.balance_loss_raw);
      expect_near(actual.z_loss_raw, expected.z_loss_raw);
      expect_near(actual.importance_loss_raw, expected.importance_loss_raw);
      expect_near(actual.load_loss_raw, expected.load_loss_raw);
    }
    EXPECT_EQ(cut.routing.load_imbalance(), whole.routing.load_imbalance());
    EXPECT_EQ(cut.routing.dead_experts(), whole.routing.dead_experts());
    EXPECT_EQ(cut.routing.load_entropy(), whole.routing.load_entropy());
    EXPECT_EQ(cut.routing.rank_imbalance, whole.routing.rank_imbalance);
    expect_near(cut.routing.router_entropy(), whole.routing.router_entropy());
    expect_near(cut.routing.balance_loss(experiment_), whole.routing.balance_loss(experiment_));
  }
}

INSTANTIATE_TEST_SUITE_P(Routers, AccumulationTest,
                         testing::Values("top1", "sigmoid", "noisy_top_k", "gshard", "hierarchical", "hash",
                                         "dense_mixture", "expert_choice", "groups"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace conclave
