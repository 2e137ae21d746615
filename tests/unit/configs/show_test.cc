#include "configs/show.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/base/error.h"
#include "tests/support/config_files.h"

namespace conclave {
namespace {

using test::ConfigFiles;
using test::kSource;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ShowTest, YamlReadsBackBitForBit) {
  const ConfigFiles files;
  const config::Experiment experiment = files.load(R"(
run: {name: "yes: \"no\"\n\t\\ ü #", dir: /a/b-c_d.e, seed: 18446744073709551615, max_wall_time: 0.1m}
model: {norm_eps: 1.2345678901234567e-7, init_std: 0.1, layers: 1e1}
moe: {experts: 3, capacity_factor: dropless}
data: {train: [{name: "1", path: "null", weight: 0.3333333333333333}, {name: b, path: b}]}
optim: {betas: [0.1, 0.30000000000000004], grad_clip: 0}
train: {eval_sequences: all}
)");
  const std::string yaml = config::to_yaml(experiment);
  const config::Experiment again = files.load(yaml);
  EXPECT_THAT(config::differences(experiment, again), IsEmpty());
  EXPECT_EQ(config::to_yaml(again), yaml);
  EXPECT_EQ(again.run().name(), experiment.run().name());
  EXPECT_EQ(again.model().norm_eps(), experiment.model().norm_eps());
  EXPECT_EQ(again.optim().betas(1), experiment.optim().betas(1));
  EXPECT_EQ(again.run().max_wall_time(), experiment.run().max_wall_time());
}

TEST(ShowTest, YamlHoldsDefaultsAndResolvedValuesInSchemaOrder) {
  const std::string yaml = config::to_yaml(ConfigFiles().load(kSource));
  EXPECT_THAT(yaml,
              testing::StartsWith("run:\n  name: run\n  dir: runs/run\n  seed: 42\n  max_wall_time: 0s\n"));
  EXPECT_THAT(yaml, HasSubstr("  head_dim: 64\n"));
  EXPECT_THAT(yaml, HasSubstr("  betas: [0.9, 0.95]\n  eps: 1e-8\n"));
  EXPECT_THAT(yaml, HasSubstr("  train:\n    - name: text\n      path: text.txt\n      weight: 1\n"));
  EXPECT_THAT(yaml, HasSubstr("  expert_parallel_size: auto\n"));
}

TEST(ShowTest, ExplainTellsAllThatTheSchemaKnows) {
  EXPECT_EQ(config::explain("moe.top_k"),
            "moe.top_k\n"
            "  Experts K that each token is sent to.\n"
            "  valid:    an integer from 1 to 64\n"
            "  default:  2\n"
            "  resume:   changes results; needs checkpoint.allow_changes\n"
            "  known as: num_experts_per_tok, moe_router_topk\n");
  EXPECT_THAT(config::explain("log.every"), HasSubstr("may be changed freely"));
  EXPECT_THAT(config::explain("moe"), HasSubstr("moe.capacity_factor"));
  EXPECT_THAT(config::explain(""), HasSubstr("The Mixture-of-Experts layers."));
  EXPECT_THAT(config::explain("data.train.weight"), HasSubstr("a number above 0"));
  EXPECT_THAT(config::explain("base"), HasSubstr("read first"));
}

TEST(ShowTest, ExplainSuggestsForAnUnknownKey) {
  try {
    config::explain("model.hidden_size");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "model.hidden_size: unknown key; did you mean model.d_model?");
  }
  EXPECT_THROW(config::explain("qqqqqqqqqq"), ConfigError);
}

std::vector<std::string> texts(const std::vector<config::Difference>& differences) {
  std::vector<std::string> lines;
  for (const auto& d : differences) {
    lines.push_back(d.key + ": " + d.a + " -> " + d.b + (d.changes_results ? " !" : ""));
  }
  return lines;
}

TEST(ShowTest, DifferencesNameKeyBothValuesAndWhetherResultsChange) {
  const ConfigFiles files;
  const config::Experiment a = files.load(kSource + "log: {every: 5}\nmoe: {experts: 4}\n");
  const config::Experiment b = files.load(
      "moe: {experts: 4, capacity_factor: dropless}\noptim: {betas: [0.9, 0.95]}\n"
      "data: {train: [{name: text, path: other.txt}, {name: more, path: more.txt}]}\n");
  EXPECT_THAT(
      texts(config::differences(a, b)),
      ElementsAre("moe.capacity_factor: 1.25 -> dropless !", "data.train.0.path: text.txt -> other.txt !",
                  "data.train.1.name: (none) -> more !", "data.train.1.path: (none) -> more.txt !",
                  "data.train.1.weight: (none) -> 1 !", "log.every: 5 -> 10"));
}

TEST(ShowTest, AValueGivenAsTheDefaultIsNoDifference) {
  const ConfigFiles files;
  EXPECT_THAT(config::differences(files.load(kSource),
                                  files.load(kSource + "optim: {betas: [0.9, 0.95], lr: 1e-3}\n")),
              IsEmpty());
}

}  // namespace
}  // namespace conclave
