#include "trainer/interop/architecture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "configs/load.h"
#include "tests/support/source_dir.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

using testing::HasSubstr;

std::string fit_of_preset(const std::string& preset, std::vector<std::string> overrides = {}) {
  return describe(
      export_fit(config::load_experiment(test::source_dir() / "configs" / (preset + ".yaml"), overrides)));
}

TEST(ExportFit, WhatPresetsExportAs) {
  EXPECT_EQ(fit_of_preset("quickstart"), "exports as qwen3_moe");
  EXPECT_EQ(fit_of_preset("quickstart", {"model.qk_norm=false"}), "exports as mixtral");
  EXPECT_EQ(fit_of_preset("quickstart", {"model.qk_norm_over=width"}), "exports as olmoe");
  EXPECT_EQ(fit_of_preset("mixtral"), "exports as qwen3_moe");
  EXPECT_EQ(fit_of_preset("mixtral_8x7b"), "exports as mixtral");
}

TEST(ExportFit, NamesEveryReason) {
  EXPECT_THAT(fit_of_preset("deepseek_v3"),
              testing::AllOf(HasSubstr("doesn't export to Hugging Face: "),
                             HasSubstr("moe.router is sigmoid"), HasSubstr("moe.shared_experts is 1")));
  EXPECT_THAT(fit_of_preset("expert_choice"), HasSubstr("theirs drop nothing"));
  EXPECT_THAT(fit_of_preset("hash"), HasSubstr("moe.router is hash, theirs is softmax"));
  EXPECT_THAT(fit_of_preset("shakespeare_dense"), HasSubstr("moe.experts is 0"));
  EXPECT_THAT(fit_of_preset("local_experts_1991"), HasSubstr("mixture_regression"));
  const struct {
    std::vector<std::string> overrides;
    const char* reason;
  } cases[] = {
      {{"moe.normalize_top_k=false", "model.qk_norm=false"}, "moe.normalize_top_k is false without"},
      {{"moe.every=2", "model.qk_norm=false"}, "moe.every is 2 without model.qk_norm"},
      {{"moe.every=2", "model.qk_norm_over=width"}, "OLMoE has experts in every block"},
      {{"model.head_dim=32", "model.qk_norm_over=width"}, "model.head_dim is 4 x 32"},
      {{"moe.every=2", "model.activation=gelu"}, "model.activation is gelu"},
      {{"moe.activation=gelu"}, "moe.activation is gelu"},
      {{"moe.routed_scale=2"}, "moe.routed_scale is 2"},
      {{"moe.expert_groups=4", "moe.top_groups=2"}, "moe.expert_groups limits"},
      {{"moe.force_balanced=true"}, "moe.force_balanced is true"},
      {{"model.causal=false", "train.objective=masked"}, "train.objective is masked"},
      {{"moe.layers=[{blocks: [1], d_ff: 64}]"}, "moe.layers makes layers differ"},
  };
  for (const auto& [overrides, reason] : cases) {
    EXPECT_THAT(fit_of_preset("quickstart", overrides), HasSubstr(reason)) << reason;
  }
}

TEST(ExportFit, WhatOnlyTrainingKnowsDoesNotCount) {
  EXPECT_EQ(fit_of_preset("quickstart", {"moe.capacity_factor=0.5", "moe.jitter=0.1",
                                         "moe.expert_dropout=0.1", "moe.renormalize_after_drop=true",
                                         "moe.every=2", "moe.layers=[{blocks: [1], balance_loss: 0.5}]"}),
            "exports as qwen3_moe");
}

}  // namespace
}  // namespace conclave
