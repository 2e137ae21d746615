#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "comm/base/error.h"
#include "configs/validate.h"
#include "tests/support/config_files.h"

namespace conclave {
namespace {

using test::ConfigFiles;
using test::kSource;
using testing::ElementsAre;
using testing::IsEmpty;

struct BrokenRouterRule {
  std::string moe;
  std::string fault;
};

class BrokenRouterRuleTest : public testing::TestWithParam<BrokenRouterRule> {};

TEST_P(BrokenRouterRuleTest, NamesTheValuesThatWork) {
  EXPECT_THAT(ConfigFiles().faults(kSource + "moe: {experts: 8, " + GetParam().moe + "}\n"),
              ElementsAre("run.yaml:2:" + GetParam().fault));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BrokenRouterRuleTest,
    testing::Values(
        BrokenRouterRule{
            "router: hash, balance_loss: 0.01",
            "47: moe.balance_loss: 0.01 has no effect with moe.router: hash, which learns nothing; "
            "valid: moe.balance_loss=0, or another moe.router"},
        BrokenRouterRule{"router: dense, balance_loss: 0.01",
                         "48: moe.balance_loss: 0.01 has no effect with moe.router: dense, which sends every "
                         "token to all experts; valid: moe.balance_loss=0, or another moe.router"},
        BrokenRouterRule{"router: hash, z_loss: 0.001",
                         "41: moe.z_loss: 0.001 has no effect with moe.router: hash, which has no logits; "
                         "valid: moe.z_loss=0, or another moe.router"},
        BrokenRouterRule{"router: hash, jitter: 0.01",
                         "41: moe.jitter: 0.01 has no effect with moe.router: hash, which doesn't look at x; "
                         "valid: moe.jitter=0, or another moe.router"},
        BrokenRouterRule{
            "router: hash, router_init_std: 0",
            "50: moe.router_init_std: 0 has no effect with moe.router: hash, which has no weights; "
            "valid: moe.router_init_std=auto, or another moe.router"},
        BrokenRouterRule{"router: softmax, importance_loss: 0.1",
                         "53: moe.importance_loss: 0.1 has no effect with moe.router: softmax, as only "
                         "noisy_top_k has this term; valid: moe.importance_loss=0, or another moe.router"},
        BrokenRouterRule{
            "router: gshard, load_loss: 0.1",
            "46: moe.load_loss: 0.1 has no effect with moe.router: gshard, as only noisy_top_k has "
            "this term; valid: moe.load_loss=0, or another moe.router"},
        BrokenRouterRule{
            "router: gshard, normalize_top_k: false",
            "52: moe.normalize_top_k: false has no effect with moe.router: gshard, whose weights "
            "always sum to 1; valid: moe.normalize_top_k=true, or another moe.router"},
        BrokenRouterRule{"router: dense, top_k: 3",
                         "41: moe.top_k: 3, but moe.router: dense sends every token to all 8 experts; valid: "
                         "moe.top_k=8, or leave it out"},
        BrokenRouterRule{"router: dense, capacity_factor: 2",
                         "51: moe.capacity_factor: 2, but moe.router: dense sends every token to all experts "
                         "and may drop none; valid: moe.capacity_factor=dropless, or leave it out"},
        BrokenRouterRule{
            "router: gshard, top_k: 1",
            "42: moe.top_k: 1, but moe.router: gshard chooses two experts; valid: moe.top_k=2, or "
            "another moe.router"},
        BrokenRouterRule{"router: hierarchical, expert_groups: 3",
                         "56: moe.expert_groups: 3 does not divide moe.experts, 8; valid: 1, 2, 4 or 8"},
        BrokenRouterRule{
            "router: hierarchical, expert_groups: 4, top_groups: 5, top_k: 5",
            "71: moe.top_groups: 5 is more than moe.expert_groups, 4; valid: moe.top_groups from 1 "
            "to 4"},
        BrokenRouterRule{"router: hierarchical, expert_groups: 4, top_groups: 2, top_k: 3",
                         "81: moe.top_groups: 2 does not divide moe.top_k, 3, and moe.router: hierarchical "
                         "chooses equally many experts in each group; valid: 1 or 3"},
        BrokenRouterRule{"router: hierarchical, expert_groups: 4, top_groups: 2, top_k: 6",
                         "81: moe.top_k: 6 in 2 groups asks for 3 experts of a group, which has 2; valid: "
                         "moe.top_k of at most 4, or more moe.top_groups"}));

TEST(RouterRulesTest, WhatCannotBeDealtIsNotForced) {
  for (const auto& [router, reason] : std::map<std::string, std::string>{
           {"hash", "which has no probabilities that dealt experts could be weighed by"},
           {"dense", "which sends every token to all experts"},
           {"expert_choice", "which loads all experts alike by construction"}}) {
    EXPECT_THAT(
        ConfigFiles().faults(kSource +
                             "moe: {force_balanced: true, allow_future_leak: true, experts: "
                             "8, router: " +
                             router + "}\n"),
        ElementsAre("run.yaml:2:74: moe.force_balanced: true has no effect with moe.router: " + router +
                    ", " + reason + "; valid: moe.force_balanced=false, or another moe.router"));
  }
}

TEST(RouterRulesTest, OthersCanBeForcedAndTaught) {
  for (const std::string router : {"softmax", "sigmoid", "gshard", "noisy_top_k", "hierarchical"})
    EXPECT_NO_THROW(
        ConfigFiles().load(kSource + "moe: {force_balanced: true, experts: 8, router: " + router + "}\n"));
  for (const std::string router :
       {"softmax", "sigmoid", "gshard", "noisy_top_k", "hierarchical", "dense", "expert_choice"})
    EXPECT_NO_THROW(ConfigFiles().load(
        kSource +
        "moe: {allow_future_leak: true, experts: 8, router_supervision: {weight: 1, sources: [{source: "
        "text, experts: [1]}]}, router: " +
        router + "}\n"));
}

TEST(RouterRulesTest, ADenseMixtureHasAtMostAsManyExpertsAsChoices) {
  EXPECT_THAT(ConfigFiles().faults(kSource + "moe: {experts: 65, router: dense}\n"),
              ElementsAre("run.yaml:2:28: moe.experts: moe.router: dense sends every token to all 65; valid: "
                          "moe.experts of at most 64, or another moe.router"));
}

TEST(RouterRulesTest, WhatFollowsFromTheRouterNeedNotBeGiven) {
  const auto dense = ConfigFiles().load(kSource + "moe: {experts: 5, router: dense}\n");
  EXPECT_EQ(dense.moe().top_k(), 5);
  EXPECT_EQ(dense.moe().capacity_factor(), 0);
  EXPECT_EQ(dense.moe().balance_loss(), 0);
  EXPECT_THAT(config::violations(dense), IsEmpty());
  const auto one = ConfigFiles().load(kSource + "moe: {experts: 1, router: dense}\n");
  EXPECT_EQ(one.moe().top_k(), 1);
  const auto hash = ConfigFiles().load(kSource + "moe: {experts: 5, router: hash}\n");
  EXPECT_EQ(hash.moe().balance_loss(), 0);
  EXPECT_EQ(hash.moe().top_k(), 2);
}

TEST(RouterRulesTest, WhatTheRoutersNeedIsFine) {
  for (const std::string moe :
       {"router: hash, top_k: 1, balance_loss: 0", "router: dense, top_k: 8, capacity_factor: dropless",
        "router: gshard, renormalize_after_drop: true",
        "router: noisy_top_k, top_k: 4, importance_loss: 0.1, load_loss: 0.1",
        "router: hierarchical, expert_groups: 4, top_groups: 2, top_k: 4", "router: hierarchical"}) {
    EXPECT_NO_THROW(ConfigFiles().load(kSource + "moe: {experts: 8, " + moe + "}\n")) << moe;
  }
}

TEST(RouterRulesTest, ADenseModelMayKeepAnyRouter) {
  EXPECT_NO_THROW(ConfigFiles().load(kSource + "moe: {experts: 0, router: dense, top_k: 3}\n"));
}

}  // namespace
}  // namespace conclave
