#include "configs/moe_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/base/error.h"
#include "configs/show.h"
#include "configs/validate.h"
#include "tests/support/config_files.h"

namespace conclave {
namespace {

using test::ConfigFiles;
using test::kSource;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string kTwoKinds = kSource +
                              "model: {layers: 4}\n"
                              "moe:\n"
                              "  experts: 8\n"
                              "  layers:\n"
                              "    - {blocks: [0, 2], experts: 4, top_k: 1, capacity_factor: dropless}\n"
                              "    - {blocks: [3], z_loss: 0.5, router: softmax}\n";

TEST(MoeLayersTest, UnsetKeysKeepTheValueOfMoe) {
  const config::Experiment experiment = ConfigFiles().load(kTwoKinds);
  const config::Moe changed = config::moe_of_layer(experiment, 2);
  EXPECT_EQ(changed.experts(), 4);
  EXPECT_EQ(changed.top_k(), 1);
  EXPECT_EQ(changed.capacity_factor(), 0);
  EXPECT_EQ(changed.d_ff(), 256);
  EXPECT_EQ(changed.balance_loss(), 0.01);
  EXPECT_EQ(config::moe_of_layer(experiment, 1).experts(), 8);
  EXPECT_EQ(config::moe_of_layer(experiment, 3).z_loss(), 0.5);
  EXPECT_EQ(config::experiment_of_layer(experiment, 0).moe().experts(), 4);
  EXPECT_EQ(config::experiment_of_layer(experiment, 0).model().layers(), 4);
  EXPECT_EQ(config::most_experts(experiment), 8);
}

TEST(MoeLayersTest, OnlyMoeBlocksCountForTheMostExperts) {
  EXPECT_EQ(config::most_experts(ConfigFiles().load(
                kSource +
                "model: {layers: 2}\nmoe: {experts: 3, every: 2, layers: [{blocks: [1], experts: 2}]}\n")),
            2);
  EXPECT_EQ(config::most_experts(ConfigFiles().load(kSource + "moe: {experts: 0}\n")), 0);
}

TEST(MoeLayersTest, ShowPrintsWhatIsSetAndReadsBack) {
  const ConfigFiles files;
  const config::Experiment experiment = files.load(kTwoKinds);
  const std::string yaml = config::to_yaml(experiment);
  EXPECT_THAT(yaml, HasSubstr("  layers:\n"
                              "    - blocks: [0, 2]\n"
                              "      experts: 4\n"
                              "      top_k: 1\n"
                              "      capacity_factor: dropless\n"
                              "    - blocks: [3]\n"
                              "      router: softmax\n"
                              "      z_loss: 0.5\n"
                              "  router_supervision:\n"));
  EXPECT_THAT(config::differences(experiment, files.load(yaml)), IsEmpty());
}

TEST(MoeLayersTest, DifferencesTellGivenFromNotGiven) {
  const ConfigFiles files;
  const config::Experiment a = files.load(kTwoKinds);
  const config::Experiment b =
      files.load(kTwoKinds, {"moe.layers.0.d_ff=32", "moe.layers.0.blocks=[0]", "moe.layers.1.z_loss=0"});
  std::vector<std::string> lines;
  for (const auto& d : config::differences(a, b)) lines.push_back(d.key + ": " + d.a + " -> " + d.b);
  EXPECT_THAT(lines, ElementsAre("moe.layers.0.blocks: [0, 2] -> [0]", "moe.layers.0.d_ff: (none) -> 32",
                                 "moe.layers.1.z_loss: 0.5 -> 0"));
  const config::Experiment none = files.load(kTwoKinds, {"moe.layers=[]"});
  lines.clear();
  for (const auto& d : config::differences(none, a)) lines.push_back(d.key + ": " + d.a + " -> " + d.b);
  EXPECT_THAT(
      lines,
      ElementsAre("moe.layers.0.blocks: (none) -> [0, 2]", "moe.layers.0.experts: (none) -> 4",
                  "moe.layers.0.top_k: (none) -> 1", "moe.layers.0.capacity_factor: (none) -> dropless",
                  "moe.layers.1.blocks: (none) -> [3]", "moe.layers.1.router: (none) -> softmax",
                  "moe.layers.1.z_loss: (none) -> 0.5"));
}

std::vector<std::string> faults(const std::string& layers) {
  return ConfigFiles().faults(kSource + "model: {layers: 4}\nmoe: {experts: 8, every: 2, layers: " + layers +
                              "}\n");
}

TEST(MoeLayersTest, BlocksMustBeMoeLayersNamedOnce) {
  EXPECT_THAT(
      faults("[{experts: 4}]"),
      ElementsAre(
          "run.yaml:3:38: moe.layers.0.blocks: missing; valid: some of the MoE layers' blocks, 1, 3"));
  EXPECT_THAT(faults("[{blocks: [4]}]"),
              ElementsAre(HasSubstr(
                  "moe.layers.0.blocks: 4 is beyond the last of 4 blocks (model.layers); valid: ")));
  EXPECT_THAT(
      faults("[{blocks: [0, 1]}]"),
      ElementsAre(HasSubstr("moe.layers.0.blocks: block 0 is no MoE layer with moe.every=2; valid: ")));
  EXPECT_THAT(
      faults("[{blocks: [1]}, {blocks: [3, 1]}]"),
      ElementsAre(HasSubstr("moe.layers.1.blocks: block 1 is named twice, first in moe.layers.0.blocks")));
}

TEST(MoeLayersTest, RulesHoldForEveryLayerAndNameTheOverride) {
  EXPECT_THAT(
      faults("[{blocks: [3]}, {blocks: [1], experts: 2, top_k: 3}]"),
      ElementsAre(HasSubstr("run.yaml:3:86: moe.layers.1.top_k: 3 is more than moe.layers.1.experts, 2")));
  EXPECT_THAT(faults("[{blocks: [1], experts: 1}]"),  // of moe.top_k, 2
              ElementsAre(HasSubstr("moe.layers.0.top_k: 2 is more than moe.layers.0.experts, 1")));
}

struct BrokenLayerRule {
  std::string moe;    // keys of moe, beside 8 experts
  std::string layer;  // keys of moe.layers.0
  std::string fault;
};
class BrokenLayerRuleTest : public testing::TestWithParam<BrokenLayerRule> {};

TEST_P(BrokenLayerRuleTest, NamesThePlaceInTheOverride) {
  EXPECT_THAT(ConfigFiles().faults(kSource + "model: {layers: 4}\nmoe: {experts: 8, " + GetParam().moe +
                                   "layers: [{blocks: [1], " + GetParam().layer + "}]}\n"),
              ElementsAre(HasSubstr(GetParam().fault)));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BrokenLayerRuleTest,
    testing::Values(
        BrokenLayerRule{"", "router: gshard, top_k: 1",
                        "run.yaml:3:65: moe.layers.0.top_k: 1, but moe.layers.0.router: gshard chooses two "
                        "experts; valid: moe.layers.0.top_k=2, or another moe.layers.0.router"},
        BrokenLayerRule{"top_k: 1, ", "router: gshard",
                        "moe.layers.0.top_k: 1, but moe.layers.0.router: gshard chooses two experts"},
        BrokenLayerRule{"", "router: dense, top_k: 3",
                        "moe.layers.0.top_k: 3, but moe.layers.0.router: dense sends every token to all 8"},
        BrokenLayerRule{"", "router: dense, capacity_factor: 2",
                        "moe.layers.0.capacity_factor: 2, but moe.layers.0.router: dense sends"},
        BrokenLayerRule{"", "router: dense, experts: 65",
                        "moe.layers.0.experts: moe.layers.0.router: dense sends every token to all 65"},
        BrokenLayerRule{"", "router: hash, balance_loss: 0.5",
                        "moe.layers.0.balance_loss: 0.5 has no effect with moe.layers.0.router: hash, which "
                        "learns nothing; valid: moe.layers.0.balance_loss=0, or another moe.layers.0.router"},
        BrokenLayerRule{"", "router: hash, z_loss: 0.5", "moe.layers.0.z_loss: 0.5 has no effect"},
        BrokenLayerRule{"allow_future_leak: true, ", "router: expert_choice, balance_loss: 0.5",
                        "moe.layers.0.balance_loss: 0.5 has no effect"},
        BrokenLayerRule{"allow_future_leak: true, capacity_factor: dropless, ", "router: expert_choice",
                        "moe.layers.0.capacity_factor: capacity with expert_choice missing: "},
        BrokenLayerRule{"", "router: expert_choice",
                        "moe.layers.0.router: expert_choice chooses a token's experts by the tokens after"},
        BrokenLayerRule{"pad_to_capacity: true, ", "capacity_factor: dropless",
                        "moe.pad_to_capacity: true needs a capacity to fill up to, and "
                        "moe.layers.0.capacity_factor is dropless; valid: a number such as "
                        "moe.layers.0.capacity_factor=1.25"},
        BrokenLayerRule{"expert_groups: 4, top_groups: 2, ", "experts: 6",
                        "moe.expert_groups: 4 does not divide moe.layers.0.experts, 6; valid: 1, 2, 3 or 6"},
        BrokenLayerRule{"expert_groups: 4, ", "top_k: 3",
                        "moe.top_groups: 1 of 4 groups hold 2 experts, fewer than moe.layers.0.top_k, 3; "
                        "valid: moe.top_groups from 2 to 4, or moe.layers.0.top_k from 1 to 2"},
        BrokenLayerRule{"expert_groups: 4, ", "router: hierarchical, top_k: 3",
                        "moe.layers.0.top_k: 3 in 1 groups asks for 3 experts of a group, which has 2"},
        BrokenLayerRule{"expert_groups: 4, top_groups: 2, ", "router: hierarchical, top_k: 3",
                        "moe.top_groups: 2 does not divide moe.layers.0.top_k, 3, and "
                        "moe.layers.0.router: hierarchical chooses"},
        BrokenLayerRule{"force_balanced: true, ", "router: dense",
                        "moe.force_balanced: true has no effect with moe.layers.0.router: dense"},
        BrokenLayerRule{"router_supervision: {sources: [{source: text, experts: [1]}]}, ", "router: hash",
                        "moe.router_supervision: moe.layers.0.router: hash learns nothing"},
        BrokenLayerRule{"router_supervision: {sources: [{source: text, experts: [5]}]}, ", "experts: 5",
                        "5 is no expert, moe.layers.0.experts is 5; valid: ids from 0 to 4"},
        BrokenLayerRule{"shared_experts: 1, shared_gate: true, ", "shared_experts: 0",
                        "moe.shared_gate: true gates the shared experts, and moe.layers.0.shared_experts"}));

// Keys that hold for all layers: one layer that reads them is enough.
TEST(MoeLayersTest, KeysOfAllLayersNeedOneLayerThatReadsThem) {
  const auto load = [](const std::string& moe, const std::string& router) {
    ConfigFiles().load(kSource + "model: {layers: 4}\nmoe: {experts: 8, " + moe +
                       ", layers: [{blocks: [1], router: " + router + "}]}\n");
  };
  EXPECT_NO_THROW(load("jitter: 0.1", "hash"));
  EXPECT_NO_THROW(load("router: hash, jitter: 0.1", "softmax"));
  EXPECT_NO_THROW(load("bias_update_rate: 0.01", "sigmoid"));
  EXPECT_NO_THROW(load("load_loss: 0.1", "noisy_top_k"));
  EXPECT_NO_THROW(load("router: gshard, expert_groups: 2", "sigmoid"));
  EXPECT_NO_THROW(load("router: gshard, normalize_top_k: false", "softmax"));
  EXPECT_THROW(load("router: gshard, load_loss: 0.1", "softmax"), ConfigError);
}

// top_k, capacity and coefficients that follow from a router stay with it.
TEST(MoeLayersTest, WhatFollowsFromARouterIsNotInherited) {
  const auto changed = [](const std::string& moe, const std::string& router) {
    return config::moe_of_layer(ConfigFiles().load(kSource + "model: {layers: 4}\nmoe: {experts: 8, " + moe +
                                                   "layers: [{blocks: [1], router: " + router + "}]}\n"),
                                1);
  };
  const config::Moe dense = changed("top_k: 3, balance_loss: 0.5, ", "dense");
  EXPECT_EQ(dense.top_k(), 8);
  EXPECT_EQ(dense.capacity_factor(), 0);
  EXPECT_EQ(dense.balance_loss(), 0);
  const config::Moe hash = changed("top_k: 3, balance_loss: 0.5, z_loss: 0.1, ", "hash");
  EXPECT_EQ(hash.top_k(), 3);
  EXPECT_EQ(hash.balance_loss(), 0);
  EXPECT_EQ(hash.z_loss(), 0);
  EXPECT_EQ(changed("balance_loss: 0.5, allow_future_leak: true, ", "expert_choice").balance_loss(), 0);
  const config::Moe softmax = changed("router: dense, ", "softmax");
  EXPECT_EQ(softmax.top_k(), 2);
  EXPECT_EQ(softmax.capacity_factor(), 1.25);
  EXPECT_EQ(softmax.balance_loss(), 0.01);
}

TEST(MoeLayersTest, ExpertParallelSizeFollowsTheLargestLayer) {
  config::Experiment experiment = ConfigFiles().load(kTwoKinds, {"moe.experts=2"});
  experiment.mutable_parallel()->set_expert_parallel_size(4);
  EXPECT_NO_THROW(config::check_for_world(experiment, 4));
  experiment.mutable_parallel()->set_expert_parallel_size(8);
  EXPECT_THROW(config::check_for_world(experiment, 8), ConfigError);
}

}  // namespace
}  // namespace conclave
