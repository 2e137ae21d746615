#include "trainer/parameter_count.h"

#include <gtest/gtest.h>

#include "comm/self/self_communicator.h"
#include "configs/load.h"
#include "configs/moe_layers.h"
#include "layers/model/model.h"
#include "tests/support/source_dir.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

class ParameterCountTest : public testing::TestWithParam<const char*> {};

// Nothing that the model holds is forgotten or counted twice.
TEST_P(ParameterCountTest, EqualsTheBuiltModel) {
  config::Experiment experiment = test::tiny_experiment("");
  test::apply(experiment, GetParam());
  if (GetParam() == std::string("dense")) experiment.mutable_moe()->set_experts(0);
  if (GetParam() == std::string("local_experts")) experiment.mutable_moe()->set_top_k(4);  // all answer
  if (GetParam() == std::string("plain_attention")) experiment.mutable_model()->set_qk_norm(false);
  if (GetParam() == std::string("wide_qk_norm"))
    experiment.mutable_model()->set_qk_norm_over(config::Model::width);

  const auto alone = make_self_communicator();
  const ProcessGrid grid(*alone, 1);
  const auto model = make_model(experiment, grid);
  std::int64_t total = 0;
  std::int64_t of_idle_experts = 0;
  for (const Parameter* parameter : model->parameters()) {
    const std::int64_t elements = parameter->value().elements();
    total += elements;
    if (parameter->sharding() == Sharding::kExpert) {
      const std::int64_t block = parameter->name()[std::string("layers.").size()] - '0';
      const config::Moe moe = config::moe_of_layer(experiment, block);
      of_idle_experts += elements / moe.experts() * (moe.experts() - moe.top_k());
    }
  }
  const ParameterCount count = count_parameters(experiment);
  EXPECT_EQ(count.total, total);
  EXPECT_EQ(count.active, total - of_idle_experts);
}

INSTANTIATE_TEST_SUITE_P(Variants, ParameterCountTest,
                         testing::Values("base", "untied", "shared", "top1", "top_all", "dense_every_second",
                                         "dense", "plain_attention", "wide_qk_norm", "local_experts", "hash",
                                         "dense_mixture", "noisy_top_k", "hierarchical", "gateless",
                                         "overrides"),
                         [](const auto& variant) { return std::string(variant.param); });

TEST(ParameterCount, PublishedModels) {
  const auto count_of = [](const std::string& preset) {
    return count_parameters(
        config::load_experiment((test::source_dir() / "configs" / (preset + ".yaml")).string(), {}));
  };
  // "46.7B total parameters but only uses 12.9B parameters per token": Jiang et al. 2024.
  const ParameterCount mixtral = count_of("mixtral_8x7b");
  EXPECT_NEAR(static_cast<double>(mixtral.total), 46.7e9, 0.05e9);
  EXPECT_NEAR(static_cast<double>(mixtral.active), 12.9e9, 0.05e9);
}

}  // namespace
}  // namespace conclave
