// ranks: 1 2
// train.recompute changes memory and time only: losses, gradients, weights, router state, statistics and
// recorded decisions are the same bit for bit, whatever is computed twice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "layers/moe/routed_layer.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "tests/support/trainer_state.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr std::int64_t kSteps = 3;

void expect_same_statistics(const MoeStatistics& actual, const MoeStatistics& expected) {
  EXPECT_EQ(actual.tokens, expected.tokens);
  EXPECT_EQ(actual.chosen_per_expert, expected.chosen_per_expert);
  EXPECT_EQ(actual.dropped_per_choice, expected.dropped_per_choice);
  EXPECT_EQ(actual.chosen_per_choice, expected.chosen_per_choice);
  EXPECT_EQ(actual.sent_per_rank, expected.sent_per_rank);
  EXPECT_EQ(actual.router_entropy_sum, expected.router_entropy_sum);
  EXPECT_EQ(actual.balance_loss_raw, expected.balance_loss_raw);
  EXPECT_EQ(actual.z_loss_raw, expected.z_loss_raw);
  EXPECT_EQ(actual.importance_loss_raw, expected.importance_loss_raw);
  EXPECT_EQ(actual.load_loss_raw, expected.load_loss_raw);
  EXPECT_EQ(actual.supervision_loss_raw, expected.supervision_loss_raw);
  EXPECT_EQ(actual.labelled_tokens, expected.labelled_tokens);
  EXPECT_EQ(actual.labelled_hits, expected.labelled_hits);
}

class RecomputeTest : public testing::TestWithParam<const char*> {};

TEST_P(RecomputeTest, ChangesNoBit) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_moe()->set_balance_scope(config::Moe::global_batch);
  experiment.mutable_moe()->set_z_loss(1e-3);
  experiment.mutable_moe()->set_capacity_factor(1);  // something is dropped
  experiment.mutable_train()->set_global_batch(6);   // several micro-batches
  test::apply(experiment, GetParam());
  const bool has_blocks = experiment.model().kind() != config::Model::mixture_regression;

  Trainer kept(experiment, test::world());
  std::vector<std::unique_ptr<Trainer>> others;
  for (const auto recompute : {config::Train::experts, config::Train::block}) {
    if (recompute == config::Train::block && !has_blocks) continue;
    experiment.mutable_train()->set_recompute(recompute);
    others.push_back(std::make_unique<Trainer>(experiment, test::world()));
  }
  for (std::int64_t step = 0; step < kSteps; ++step) {
    std::vector<float> gradients;
    const StepResult expected =
        train_step(kept, step, [&] { gradients = test::all_of(kept, &Parameter::gradient); });
    std::vector<MoeStatistics> statistics;
    for (const auto& [block, layer] : kept.model.moe_layers()) statistics.push_back(layer->take_statistics());

    for (const auto& other : others) {
      SCOPED_TRACE(testing::Message()
                   << "step " << step << ", recompute "
                   << config::Train::Recompute_Name(other->experiment.train().recompute()));
      const StepResult result = train_step(*other, step, [&] {
        EXPECT_TRUE(test::all_of(*other, &Parameter::gradient) == gradients) << "gradients differ";
      });
      EXPECT_EQ(result.loss, expected.loss);
      EXPECT_EQ(result.gradient_norm, expected.gradient_norm);
      EXPECT_TRUE(test::all_of(*other, &Parameter::value) == test::all_of(kept, &Parameter::value))
          << "weights differ";
      EXPECT_EQ(test::router_state(*other), test::router_state(kept));
      for (std::size_t layer = 0; layer < statistics.size(); ++layer) {
        expect_same_statistics(other->model.moe_layers()[layer].layer->take_statistics(), statistics[layer]);
      }
    }
  }
  if (std::string(GetParam()).empty()) {
    EXPECT_LT(others[0]->arena.peak_bytes(), kept.arena.peak_bytes());
    EXPECT_LT(others[1]->arena.peak_bytes(), others[0]->arena.peak_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, RecomputeTest,
                         testing::Values("", "shared", "switch", "sigmoid", "groups", "gshard", "noisy_top_k",
                                         "hierarchical", "hash", "expert_choice", "pad_to_capacity",
                                         "dropout", "gateless", "overrides", "supervised", "masked",
                                         "dense_mixture", "local_experts"),
                         [](const auto& variant) {
                           return std::string(variant.param).empty() ? "softmax" : variant.param;
                         });

// What a recorder of decisions sees between forward and backward is still there, though the block's memory
// was given back.
TEST(RecomputeTest, KeepsTheDecisionsOfRouters) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_log()->set_routing("routing");  // nothing is written before the end of a step
  const auto decisions = [&](config::Train::Recompute recompute) {
    experiment.mutable_train()->set_recompute(recompute);
    Trainer trainer(experiment, test::world());
    const data::BatchCut cut = batch_cut(experiment, test::world().size());
    data::load_training(trainer.dataset, cut, 0, 0, test::world().rank(), trainer.batch);
    Context ctx = trainer.context(
        data::position_of(cut, 0, 0, test::world().rank(), trainer.dataset.sequence_length()), true);
    trainer.model.forward(ctx, trainer.batch.input_view(), trainer.batch.target_view());
    std::vector<std::vector<float>> weights;
    std::vector<std::vector<std::int32_t>> experts;
    for (const auto& [block, layer] : trainer.model.moe_layers()) {
      const Routing& routing = layer->last_routing();
      const auto of_layer = routing.weights.values<float>();
      weights.emplace_back(of_layer.begin(), of_layer.end());
      const auto chosen = routing.experts.values<std::int32_t>();
      experts.emplace_back(chosen.begin(), chosen.end());
    }
    trainer.model.backward(ctx);
    return std::pair(weights, experts);
  };
  const auto expected = decisions(config::Train::none);
  EXPECT_EQ(decisions(config::Train::experts), expected);
  EXPECT_EQ(decisions(config::Train::block), expected);
}

}  // namespace
}  // namespace conclave
