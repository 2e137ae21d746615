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

TEST(MoeLayersTest, ExpertParallelSizeFollowsTheLargestLayer) {
  config::Experiment experiment = ConfigFiles().load(kTwoKinds, {"moe.experts=2"});
  experiment.mutable_parallel()->set_expert_parallel_size(4);
  EXPECT_NO_THROW(config::check_for_world(experiment, 4));
  experiment.mutable_parallel()->set_expert_parallel_size(8);
  EXPECT_THROW(config::check_for_world(experiment, 8), ConfigError);
}

}  // namespace
}  // namespace conclave
