// The MoE layer on one rank against its definition, forward and backward.
#include "layers/moe/moe_layer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "comm/self/self_communicator.h"
#include "tests/support/moe_case.h"

namespace conclave::test {
namespace {

using reference::MoeSizes;

class MoeLayerTest : public testing::Test {
 protected:
  // Runs the case and compares y, dx and all parameter gradients with the reference's double-precision values
  // within the error bounds of fp32.
  void expect_matches_reference(const MoeCase& moe) {
    const reference::MoeChoices choices = choose_without_near_ties(moe);
    const auto bounded = moe.tensors.as<Bounded>();
    const std::vector<Bounded> dy(moe.dy.begin(), moe.dy.end());
    auto gradients = reference::moe_backward(moe.sizes, choices, bounded, dy);

    MoeCaseLayer layer(moe, grid_);
    layer.run({0, static_cast<std::int64_t>(moe.sizes.tokens)});
    expect_within_bounds(layer.y(), reference::moe_forward(moe.sizes, choices, bounded), "y");
    expect_within_bounds(layer.dx(), gradients.x, "dx");
    for (Parameter* parameter : layer.parameters()) {
      expect_within_bounds(parameter->gradient().values<float>(), tensor_of(gradients, parameter->name()),
                           "gradient of " + parameter->name());
    }
    expect_counts_match(layer.layer(), moe, choices);
  }

  void expect_counts_match(MoeLayer& layer, const MoeCase& moe, const reference::MoeChoices& choices) {
    const MoeStatistics& statistics = layer.statistics();
    std::vector<std::int64_t> chosen(moe.sizes.experts, 0);
    std::vector<std::int64_t> dropped(moe.sizes.top_k, 0);
    std::int64_t kept = 0;
    for (std::size_t i = 0; i < choices.expert.size(); ++i) {
      ++chosen[choices.expert[i]];
      (choices.kept[i] ? kept : dropped[i % moe.sizes.top_k]) += 1;
      EXPECT_EQ(layer.last_routing().experts.values<std::int32_t>()[i], choices.expert[i]) << "choice " << i;
    }
    EXPECT_EQ(statistics.tokens, static_cast<std::int64_t>(moe.sizes.tokens));
    EXPECT_EQ(statistics.chosen_per_expert, chosen);
    EXPECT_EQ(statistics.dropped_per_choice, dropped);
    EXPECT_EQ(statistics.chosen_per_choice,
              std::vector<std::int64_t>(moe.sizes.top_k, static_cast<std::int64_t>(moe.sizes.tokens)));
    EXPECT_EQ(statistics.sent_per_rank, std::vector<std::int64_t>{kept});
  }

  std::unique_ptr<Communicator> self_ = make_self_communicator();
  ProcessGrid grid_{*self_, 1};
};

// The reference's own derivatives, against none at all.
TEST(MoeReferenceTest, BackwardIsTheComplexStepDerivative) {
  for (const auto& [normalize, renormalize] : {std::pair(true, false), {false, false}, {false, true}}) {
    const config::Activation activation = normalize ? config::swiglu : config::gelu;
    const MoeSizes sizes{.tokens = 5,
                         .d_model = 4,
                         .d_ff = 3,
                         .experts = 4,
                         .top_k = 2,
                         .shared_d_ff = 3,
                         .normalize = normalize,
                         .capacity = 2,
                         .renormalize = renormalize,
                         .shared_gate = true,
                         .activation = activation};
    const MoeCase moe = make_moe_case(sizes, 1);
    const reference::MoeChoices choices = reference::choose(sizes, moe.tensors);
    auto explicit_form = reference::moe_backward(sizes, choices, moe.tensors, moe.dy);
    auto complex_step = reference::moe_complex_step(sizes, choices, moe.tensors, moe.dy);
    const auto tensors = explicit_form.all();
    for (std::size_t tensor = 0; tensor < tensors.size(); ++tensor) {
      for (std::size_t i = 0; i < tensors[tensor]->size(); ++i) {
        const double expected = (*complex_step.all()[tensor])[i];
        EXPECT_NEAR((*tensors[tensor])[i], expected, 1e-13 * (1 + std::abs(expected)))
            << "tensor " << tensor << " element " << i;
      }
    }
  }
}

TEST_F(MoeLayerTest, TopTwoOfFive) {
  expect_matches_reference(
      make_moe_case({.tokens = 13, .d_model = 7, .d_ff = 5, .experts = 5, .top_k = 2}, 2));
}

TEST_F(MoeLayerTest, WeightsThatAreNotNormalised) {
  expect_matches_reference(make_moe_case(
      {.tokens = 11, .d_model = 6, .d_ff = 3, .experts = 4, .top_k = 2, .normalize = false}, 3));
}

TEST_F(MoeLayerTest, OneChoice) {
  expect_matches_reference(
      make_moe_case({.tokens = 9, .d_model = 6, .d_ff = 4, .experts = 3, .top_k = 1, .normalize = false}, 4));
}

TEST_F(MoeLayerTest, EveryTokenTakesEveryExpert) {
  expect_matches_reference(
      make_moe_case({.tokens = 10, .d_model = 5, .d_ff = 4, .experts = 3, .top_k = 3}, 5));
}

TEST_F(MoeLayerTest, OneExpert) {
  expect_matches_reference(
      make_moe_case({.tokens = 4, .d_model = 5, .d_ff = 4, .experts = 1, .top_k = 1}, 6));
}

TEST_F(MoeLayerTest, SharedExperts) {
  expect_matches_reference(
      make_moe_case({.tokens = 12, .d_model = 7, .d_ff = 5, .experts = 4, .top_k = 2, .shared_d_ff = 10}, 7));
}

TEST_F(MoeLayerTest, GatedSharedExperts) {
  expect_matches_reference(make_moe_case({.tokens = 12,
                                          .d_model = 7,
                                          .d_ff = 5,
                                          .experts = 4,
                                          .top_k = 2,
                                          .shared_d_ff = 10,
                                          .shared_gate = true},
                                         16));
}

TEST_F(MoeLayerTest, GatedSharedExpertsInEvaluation) {
  const MoeCase moe = make_moe_case({.tokens = 6,
                                     .d_model = 7,
                                     .d_ff = 5,
                                     .experts = 3,
                                     .top_k = 1,
                                     .shared_d_ff = 5,
                                     .shared_gate = true,
                                     .activation = config::relu},
                                    17);
  MoeCaseLayer layer(moe, grid_);
  layer.run({0, 6}, /*training=*/false);
  expect_within_bounds(
      layer.y(), reference::moe_forward(moe.sizes, choose_without_near_ties(moe), moe.tensors.as<Bounded>()),
      "y");
}

TEST_F(MoeLayerTest, ActivationsWithoutAGate) {
  for (const config::Activation activation : {config::gelu, config::relu}) {
    expect_matches_reference(make_moe_case({.tokens = 12,
                                            .d_model = 7,
                                            .d_ff = 5,
                                            .experts = 4,
                                            .top_k = 2,
                                            .shared_d_ff = 5,
                                            .shared_gate = activation == config::relu,
                                            .activation = activation},
                                           18));
  }
}

TEST_F(MoeLayerTest, OneToken) {
  expect_matches_reference(
      make_moe_case({.tokens = 1, .d_model = 7, .d_ff = 5, .experts = 4, .top_k = 2, .shared_d_ff = 5}, 8));
}

TEST_F(MoeLayerTest, NoToken) {
  expect_matches_reference(
      make_moe_case({.tokens = 0, .d_model = 7, .d_ff = 5, .experts = 4, .top_k = 2, .shared_d_ff = 5}, 9));
}

TEST_F(MoeLayerTest, DropsTheLatestOverCapacity) {
  // C = ceil(0.5 * 2 * 16 / 4)
  MoeCase moe =
      make_moe_case({.tokens = 16, .d_model = 6, .d_ff = 4, .experts = 4, .top_k = 2, .capacity = 4}, 10);
  moe.experiment.mutable_moe()->set_capacity_factor(0.5);
  expect_matches_reference(moe);
}

TEST_F(MoeLayerTest, RenormalisesTheWeightsThatDroppingLeaves) {
  for (const bool normalize : {true, false}) {
    MoeCase moe = make_moe_case({.tokens = 16,
                                 .d_model = 6,
                                 .d_ff = 4,
                                 .experts = 4,
                                 .top_k = 2,
                                 .normalize = normalize,
                                 .capacity = 4,
                                 .renormalize = true},
                                10);
    moe.experiment.mutable_moe()->set_capacity_factor(0.5);
    expect_matches_reference(moe);
  }
}

TEST_F(MoeLayerTest, DropsTheLeastProbableOverCapacity) {
  MoeCase moe = make_moe_case({.tokens = 16,
                               .d_model = 6,
                               .d_ff = 4,
                               .experts = 4,
                               .top_k = 2,
                               .shared_d_ff = 4,
                               .normalize = false,
                               .capacity = 4,
                               .drop_smallest = true},
                              11);
  moe.experiment.mutable_moe()->set_capacity_factor(0.5);
  expect_matches_reference(moe);
}

TEST_F(MoeLayerTest, EvaluationDropsNothing) {
  MoeCase moe = make_moe_case({.tokens = 16, .d_model = 6, .d_ff = 4, .experts = 4, .top_k = 2}, 12);
  moe.experiment.mutable_moe()->set_capacity_factor(0.25);
  const reference::MoeChoices choices = choose_without_near_ties(moe);
  MoeCaseLayer layer(moe, grid_);
  layer.run({0, 16}, /*training=*/false);
  expect_within_bounds(layer.y(), reference::moe_forward(moe.sizes, choices, moe.tensors.as<Bounded>()), "y");
  expect_counts_match(layer.layer(), moe, choices);
}

// E / K lets an expert take every token.
TEST_F(MoeLayerTest, FilledUpToCapacityIsTheSameAsDropless) {
  const MoeCase dropless =
      make_moe_case({.tokens = 14, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 2, .shared_d_ff = 4}, 16);
  MoeCase filled = dropless;
  filled.experiment.mutable_moe()->set_pad_to_capacity(true);
  filled.experiment.mutable_moe()->set_capacity_factor(2.5);
  expect_matches_reference(filled);

  MoeCaseLayer expected(dropless, grid_);
  MoeCaseLayer actual(filled, grid_);
  expected.run({0, 14});
  actual.run({0, 14});
  EXPECT_TRUE(std::ranges::equal(actual.y(), expected.y()));
  EXPECT_EQ(actual.layer().statistics().sent_per_rank, expected.layer().statistics().sent_per_rank);
  EXPECT_EQ(actual.layer().statistics().chosen_per_expert, expected.layer().statistics().chosen_per_expert);
}

TEST_F(MoeLayerTest, FilledUpToCapacityDropsTheSame) {
  // C = ceil(0.5 * 2 * 16 / 4)
  MoeCase moe =
      make_moe_case({.tokens = 16, .d_model = 6, .d_ff = 4, .experts = 4, .top_k = 2, .capacity = 4}, 10);
  moe.experiment.mutable_moe()->set_capacity_factor(0.5);
  moe.experiment.mutable_moe()->set_pad_to_capacity(true);
  expect_matches_reference(moe);
}

TEST_F(MoeLayerTest, GradientsAndCountsAddUpUntilTheyAreReset) {
  const MoeCase moe = make_moe_case({.tokens = 6, .d_model = 5, .d_ff = 3, .experts = 3, .top_k = 2}, 13);
  const std::vector<Bounded> dy(moe.dy.begin(), moe.dy.end());
  auto gradients =
      reference::moe_backward(moe.sizes, choose_without_near_ties(moe), moe.tensors.as<Bounded>(), dy);
  MoeCaseLayer twice(moe, grid_);
  twice.run({0, 6});
  twice.run({0, 6});
  for (Parameter* parameter : twice.parameters()) {
    std::vector<Bounded>& expected = tensor_of(gradients, parameter->name());
    for (Bounded& gradient : expected) gradient += gradient;
    expect_within_bounds(parameter->gradient().values<float>(), expected, "gradient of " + parameter->name());
  }
  EXPECT_EQ(twice.layer().statistics().tokens, 12);
  twice.layer().take_statistics();
  EXPECT_EQ(twice.layer().statistics().tokens, 0);
  EXPECT_EQ(twice.layer().statistics().chosen_per_expert, std::vector<std::int64_t>(3, 0));
}

TEST_F(MoeLayerTest, AllocatesNothingInSteadyState) {
  const MoeCase moe = make_moe_case({.tokens = 32, .d_model = 8, .d_ff = 4, .experts = 4, .top_k = 2}, 14);
  MoeCaseLayer layer(moe, grid_);
  layer.run({0, 32});
  layer.run({0, 32});
  const std::int64_t allocations = layer.context().arena->system_allocations();
  layer.run({0, 32});
  EXPECT_EQ(layer.context().arena->system_allocations(), allocations);
}

TEST_F(MoeLayerTest, InitialWeightsBelongToTheName) {
  const MoeCase moe = make_moe_case({.tokens = 0, .d_model = 4, .d_ff = 3, .experts = 2, .top_k = 1}, 15);
  MoeLayer first(moe.experiment, "layers.0.moe", grid_);
  MoeLayer second(moe.experiment, "layers.1.moe", grid_);
  std::vector<Parameter*> parameters;
  first.collect_parameters(parameters);
  second.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 6u);
  EXPECT_EQ(parameters[1]->name(), "layers.0.moe.experts.gate_up");
  EXPECT_EQ(parameters[1]->global_shape(), (Shape{2, 6, 4}));
  EXPECT_EQ(parameters[2]->name(), "layers.0.moe.experts.down");
  EXPECT_EQ(parameters[2]->global_shape(), (Shape{2, 4, 3}));
  EXPECT_NE(parameters[1]->value().values<float>()[0], parameters[4]->value().values<float>()[0]);
}

}  // namespace
}  // namespace conclave::test
