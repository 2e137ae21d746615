// Ratios from counts made by hand.
#include "trainer/routing_summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "comm/self/self_communicator.h"
#include "layers/model/language_model.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

// Two layers of four experts, top-2.
RoutingSummary two_layers() {
  RoutingSummary summary;
  summary.blocks = {0, 1};
  summary.layers = {{.tokens = 8,
                     .chosen_per_expert = {8, 4, 4, 0},
                     .chosen_per_choice = {8, 8},
                     .dropped_per_choice = {1, 3},
                     .sent_per_rank = {12},
                     .router_entropy_sum = 4.0,
                     .balance_loss_raw = 1.25,
                     .z_loss_raw = 0.5,
                     .importance_loss_raw = 0.125,
                     .load_loss_raw = 3},
                    {.tokens = 8,
                     .chosen_per_expert = {4, 4, 4, 4},
                     .chosen_per_choice = {8, 8},
                     .dropped_per_choice = {0, 0},
                     .sent_per_rank = {16},
                     .router_entropy_sum = 8.0,
                     .balance_loss_raw = 1.0,
                     .z_loss_raw = 0.25}};
  summary.rank_imbalance = {1, 1};
  return summary;
}

TEST(RoutingSummary, Ratios) {
  const RoutingSummary summary = two_layers();
  EXPECT_EQ(summary.load_imbalance(), (std::vector<double>{2.0, 1.0}));
  EXPECT_DOUBLE_EQ(summary.dead_experts(), 1.0 / 8);
  // Shares 1/2, 1/4, 1/4, 0: 1.5 ln 2 of 2 ln 2; and even.
  EXPECT_DOUBLE_EQ(summary.load_entropy(), (0.75 + 1.0) / 2);
  EXPECT_DOUBLE_EQ(summary.router_entropy(), (0.5 + 1.0) / 2);
  EXPECT_DOUBLE_EQ(summary.dropped_fraction(), 4.0 / 32);
  EXPECT_EQ(summary.dropped_fraction_by_layer(), (std::vector<double>{4.0 / 16, 0.0}));
  EXPECT_EQ(summary.dropped_fraction_by_choice(), (std::vector<double>{1.0 / 16, 3.0 / 16}));
  EXPECT_DOUBLE_EQ(summary.balance_loss_raw(), 2.25);
  EXPECT_DOUBLE_EQ(summary.importance_loss_raw(), 0.125);
  EXPECT_DOUBLE_EQ(summary.load_loss_raw(), 3);
}

TEST(RoutingSummary, TermsTakeTheCoefficientsOfTheirLayer) {
  config::Experiment experiment = test::tiny_experiment("");
  experiment.mutable_moe()->set_balance_loss(0.5);
  experiment.mutable_moe()->set_z_loss(2.0);
  EXPECT_DOUBLE_EQ(two_layers().balance_loss(experiment), 0.5 * 2.25);
  EXPECT_DOUBLE_EQ(two_layers().z_loss(experiment), 2.0 * 0.75);
  config::MoeLayers& second = *experiment.mutable_moe()->add_layers();
  second.add_blocks(1);
  second.set_balance_loss(4.0);
  EXPECT_DOUBLE_EQ(two_layers().balance_loss(experiment), 0.5 * 1.25 + 4.0 * 1.0);
  EXPECT_DOUBLE_EQ(two_layers().z_loss(experiment), 2.0 * 0.75);
}

TEST(RoutingSummary, LayersOfDifferentSizes) {
  RoutingSummary summary;
  summary.blocks = {0, 1};
  summary.layers = {
      {.tokens = 8, .chosen_per_expert = {8, 0}, .chosen_per_choice = {8}, .dropped_per_choice = {2}},
      {.tokens = 8,
       .chosen_per_expert = {4, 4, 8, 0, 0, 0},
       .chosen_per_choice = {8, 8},
       .dropped_per_choice = {0, 4}}};
  EXPECT_DOUBLE_EQ(summary.dead_experts(), 4.0 / 8);
  EXPECT_EQ(summary.dropped_fraction_by_choice(), (std::vector<double>{2.0 / 16, 4.0 / 8}));
  EXPECT_DOUBLE_EQ(summary.dropped_fraction(), 6.0 / 24);
}

// Second choices of gshard and places of expert choice may stay empty: they can't be dropped.
TEST(RoutingSummary, EmptyPlacesAreNoChoices) {
  RoutingSummary summary;
  summary.blocks = {0};
  summary.layers = {
      {.tokens = 8, .chosen_per_expert = {8, 2}, .chosen_per_choice = {8, 2}, .dropped_per_choice = {2, 1}}};
  EXPECT_EQ(summary.dropped_fraction_by_choice(), (std::vector<double>{2.0 / 8, 1.0 / 2}));
}

TEST(RoutingSummary, OneExpertOrNoTokensIsEven) {
  RoutingSummary summary;
  summary.layers = {
      {.tokens = 3, .chosen_per_expert = {3}, .chosen_per_choice = {3}, .dropped_per_choice = {0}},
      {.chosen_per_expert = {0}, .chosen_per_choice = {0}, .dropped_per_choice = {0}}};
  EXPECT_EQ(summary.load_imbalance(), (std::vector<double>{1.0, 1.0}));
  EXPECT_EQ(summary.load_entropy(), 1.0);
  EXPECT_EQ(summary.router_entropy(), 0.0);
  EXPECT_EQ(summary.dropped_fraction(), 0.0);
}

TEST(RoutingSummary, ADenseModelHasNone) {
  const RoutingSummary summary;
  EXPECT_TRUE(summary.load_imbalance().empty());
  EXPECT_EQ(summary.dead_experts(), 0.0);
  EXPECT_EQ(summary.load_entropy(), 0.0);
  EXPECT_EQ(summary.dropped_fraction(), 0.0);
  EXPECT_TRUE(summary.dropped_fraction_by_layer().empty());
  EXPECT_TRUE(summary.dropped_fraction_by_choice().empty());
  EXPECT_EQ(summary.balance_loss(test::tiny_experiment("")), 0.0);
}

TEST(RoutingSummary, TakesTheCountsOfTheModelAndResetsThem) {
  config::Experiment experiment = test::tiny_experiment("");
  experiment.mutable_model()->set_layers(4);
  experiment.mutable_moe()->set_every(2);
  const auto alone = make_self_communicator();
  const ProcessGrid grid(*alone, 1);
  const LanguageModel model(experiment, grid);
  const RoutingSummary counted = two_layers();
  for (std::size_t i = 0; i < 2; ++i) model.moe_layers()[i].layer->take_statistics(counted.layers[i]);

  const RoutingSummary taken = take_routing_summary(model, *alone);
  EXPECT_EQ(taken.blocks, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(taken.rank_imbalance, (std::vector<double>{1.0, 1.0}));
  ASSERT_EQ(taken.layers.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(taken.layers[i].tokens, counted.layers[i].tokens);
    EXPECT_EQ(taken.layers[i].chosen_per_expert, counted.layers[i].chosen_per_expert);
    EXPECT_EQ(taken.layers[i].dropped_per_choice, counted.layers[i].dropped_per_choice);
    EXPECT_EQ(taken.layers[i].chosen_per_choice, counted.layers[i].chosen_per_choice);
    EXPECT_EQ(taken.layers[i].sent_per_rank, counted.layers[i].sent_per_rank);
    EXPECT_EQ(taken.layers[i].router_entropy_sum, counted.layers[i].router_entropy_sum);
    EXPECT_EQ(taken.layers[i].balance_loss_raw, counted.layers[i].balance_loss_raw);
    EXPECT_EQ(taken.layers[i].z_loss_raw, counted.layers[i].z_loss_raw);
    EXPECT_EQ(taken.layers[i].importance_loss_raw, counted.layers[i].importance_loss_raw);
    EXPECT_EQ(taken.layers[i].load_loss_raw, counted.layers[i].load_loss_raw);
  }
  EXPECT_EQ(take_routing_summary(model, *alone).layers[0].tokens, 0);
}

}  // namespace
}  // namespace conclave
