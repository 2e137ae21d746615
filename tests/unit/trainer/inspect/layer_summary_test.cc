// Summaries of a routing made by hand.
#include "trainer/inspect/layer_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/small_trace.h"
#include "trainer/inspect/token_text.h"

namespace conclave {
namespace {

using testing::Each;
using testing::ElementsAre;
using Ids = std::vector<std::int32_t>;

TEST(RoutingTrace, ChoicesComeByWeightWithoutEmptyPlaces) {
  const RoutingTrace trace = test::small_trace();
  const std::vector<Choice> swapped = choices_of(trace.layers[0], 1);
  ASSERT_EQ(swapped.size(), 2U);
  EXPECT_EQ(swapped[0].expert, 3);
  EXPECT_EQ(swapped[1].expert, 0);
  EXPECT_TRUE(choices_of(trace.layers[0], 2).empty());
  EXPECT_EQ(choices_of(trace.layers[0], 3).size(), 1U);
  EXPECT_EQ(first_experts(trace.layers[0]), (Ids{3, 3, kNoExpert, 3}));
  EXPECT_EQ(first_experts(trace.layers[1]), (Ids{0, 2, 1, 0}));
}

TEST(RoutingTrace, ADivergedWeightComesLast) {
  LayerRouting layer;
  layer.experts = 3;
  layer.places = 3;
  layer.chosen = {0, 1, 2};
  layer.weights = {std::numeric_limits<float>::quiet_NaN(), 0.1F, 0.2F};
  const std::vector<Choice> choices = choices_of(layer, 0);
  EXPECT_EQ(choices[0].expert, 2);
  EXPECT_EQ(choices[2].expert, 0);
}

TEST(LayerSummary, CountsLoadsAndWhoseTheyAre) {
  RoutingTrace trace = test::small_trace();
  trace.sources = {"first", "second"};
  trace.source_of_token = {0, 0, 1, 1};
  const LayerSummary layer = summarise(trace)[0];
  EXPECT_EQ(layer.block, 0);
  EXPECT_EQ(layer.tokens, 4);
  EXPECT_EQ(layer.choices, 5);
  EXPECT_THAT(layer.load, ElementsAre(1, 1, 0, 3));
  EXPECT_EQ(layer.dead_experts, 1);
  EXPECT_DOUBLE_EQ(layer.load_imbalance, 3 / 1.25);
  const auto term = [](double share) { return -share * std::log(share); };
  EXPECT_DOUBLE_EQ(layer.load_entropy, (2 * term(0.2) + term(0.6)) / std::log(4.0));
  EXPECT_THAT(layer.load_by_source, ElementsAre(ElementsAre(1, 1, 0, 2), ElementsAre(0, 0, 0, 1)));
  const auto of = [&](ByteClass kind) { return layer.load_by_class[static_cast<std::size_t>(kind)]; };
  EXPECT_THAT(of(ByteClass::kLower), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(of(ByteClass::kUpper), ElementsAre(1, 0, 0, 1));
  EXPECT_THAT(of(ByteClass::kHigh), ElementsAre(0, 0, 0, 1));
  EXPECT_THAT(of(ByteClass::kNewline), Each(0));
}

TEST(LayerSummary, RouterEntropyWhereThereIsOne) {
  const std::vector<LayerSummary> layers = summarise(test::small_trace());
  EXPECT_NEAR(layers[0].router_entropy.value(), (0.7 + 1.3862944 + 0.1) / 4, 1e-6);
  ASSERT_EQ(layers[0].entropy_histogram.size(), static_cast<std::size_t>(kEntropyBins));
  EXPECT_EQ(layers[0].entropy_histogram[0], 1);
  EXPECT_EQ(layers[0].entropy_histogram[1], 1);   // 0.1 / ln 4 = 0.07
  EXPECT_EQ(layers[0].entropy_histogram[10], 1);  // 0.7 / ln 4 = 0.505
  EXPECT_EQ(layers[0].entropy_histogram[19], 1);  // the upper end belongs to the last
  EXPECT_FALSE(layers[1].router_entropy);
  EXPECT_TRUE(layers[1].entropy_histogram.empty());
}

TEST(LayerSummary, PaddingIsNoPartOfAnyMean) {
  RoutingTrace trace = test::small_trace();
  trace.tokens[2] = kNoToken;  // the token without experts in layer 0
  const LayerSummary layer = summarise(trace)[0];
  EXPECT_EQ(layer.tokens, 3);
  EXPECT_NEAR(layer.router_entropy.value(), (0.7 + 0.1) / 3, 1e-6);
  EXPECT_EQ(layer.entropy_histogram[19], 0);
  trace.tokens = {kNoToken, kNoToken, kNoToken, kNoToken};
  EXPECT_FALSE(summarise(trace)[0].router_entropy);
}

TEST(LayerSummary, TokensOfAnotherTokenizerHaveNoClasses) {
  RoutingTrace trace = test::small_trace();
  trace.tokens_are_bytes = false;
  trace.tokens[0] = 50000;
  EXPECT_TRUE(summarise(trace)[0].load_by_class.empty());
}

TEST(Agreement, LeavesThePlaceItselfOut) {
  // Key 1: the others of each 7 are 7, 7, 4, those of the 4 all 7. Key 2 occurs once: no guess.
  EXPECT_DOUBLE_EQ(agreement(Ids{1, 1, 1, 1, 2}, Ids{7, 7, 7, 4, 9}).value(), 3.0 / 4);
  // Of two that differ each is guessed by the other alone, and wrongly.
  EXPECT_DOUBLE_EQ(agreement(Ids{5, 5}, Ids{0, 1}).value(), 0);
}

TEST(Agreement, ATieGoesToTheLowerExpert) {
  EXPECT_DOUBLE_EQ(agreement(Ids{1, 1, 1}, Ids{2, 2, 3}).value(), 2.0 / 3);
  EXPECT_DOUBLE_EQ(agreement(Ids{1, 1, 1}, Ids{3, 3, 2}).value(), 0);
}

TEST(Agreement, NothingToGuess) {
  EXPECT_FALSE(agreement(Ids{1, 2, 3}, Ids{0, 0, 0}));
  EXPECT_FALSE(agreement(Ids{1, 1}, Ids{kNoExpert, 0}));
  EXPECT_FALSE(agreement(Ids{-1, -1}, Ids{0, 0}));
  EXPECT_FALSE(agreement(Ids{}, Ids{}));
}

}  // namespace
}  // namespace conclave
