// moe.jitter and moe.router_init_std reach every router that looks at x.
#include <gtest/gtest.h>

#include "layers/moe/router/input_jitter.h"
#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::RouterCase;

class RouterInputTest : public testing::TestWithParam<config::Moe::Router> {};

config::Experiment experiment(config::Moe::Router router) {
  config::Experiment config = RouterCase::experiment(router, 4, router == config::Moe::dense ? 4 : 2);
  config::Moe& moe = *config.mutable_moe();
  if (router == config::Moe::hierarchical) moe.set_expert_groups(2);
  if (router == config::Moe::noisy_top_k) moe.set_load_loss(0.9);
  return config;
}

// With noise a router does to x what it does without to the noisy x, and the gradient passes the noise.
TEST_P(RouterInputTest, IsNoisyInTraining) {
  config::Experiment noisy_config = experiment(GetParam());
  noisy_config.mutable_moe()->set_jitter(0.3);
  RouterCase noisy(noisy_config, 2);
  RouterCase plain(experiment(GetParam()), 2);
  const InputJitter jitter(noisy_config, RouterCase::kName);
  plain.x = test::copy_of(
      jitter.forward(noisy.context, test::view(std::as_const(noisy.x), {noisy.tokens(), RouterCase::D})));
  ASSERT_NE(plain.x, noisy.x);

  const Routing actual = noisy.forward();
  const Routing expected = plain.forward();
  EXPECT_TRUE(
      std::ranges::equal(actual.experts.values<std::int32_t>(), expected.experts.values<std::int32_t>()));
  EXPECT_EQ(test::copy_of(actual.weights), test::copy_of(expected.weights));

  const std::vector<float> dweights = test::random_values(actual.weights.elements(), "dweights");
  const auto dw = test::view(dweights, actual.weights.shape());
  const TensorView dx = noisy.router->backward(noisy.context, dw);
  const TensorView dnoisy_x = plain.router->backward(plain.context, dw);
  jitter.backward(plain.context, dnoisy_x);
  EXPECT_EQ(test::copy_of(dx), test::copy_of(dnoisy_x));
  for (std::size_t i = 0; i < noisy.parameters.size(); ++i)
    EXPECT_EQ(test::copy_of(noisy.parameters[i]->gradient()), test::copy_of(plain.parameters[i]->gradient()));
}

TEST_P(RouterInputTest, IsCleanInEvaluation) {
  config::Experiment noisy_config = experiment(GetParam());
  noisy_config.mutable_moe()->set_jitter(0.3);
  RouterCase noisy(noisy_config, 2);
  RouterCase plain(experiment(GetParam()), 2);
  noisy.context.training = plain.context.training = false;
  EXPECT_EQ(test::copy_of(noisy.forward().weights), test::copy_of(plain.forward().weights));
}

TEST_P(RouterInputTest, StartsWithTheGivenDeviation) {
  const auto first_weight = [](const config::Experiment& config) {
    const auto router = make_router(config, "router");
    std::vector<Parameter*> parameters;
    router->collect_parameters(parameters);
    return parameters.at(0)->value().values<float>()[0];
  };
  config::Experiment config = experiment(GetParam());
  const float automatic = first_weight(config);  // model.init_std, 0.3
  config.mutable_moe()->set_router_init_std(0.6);
  EXPECT_FLOAT_EQ(first_weight(config), 2 * automatic);
  config.mutable_moe()->set_router_init_std(0);
  EXPECT_EQ(first_weight(config), 0);
}

INSTANTIATE_TEST_SUITE_P(Routers, RouterInputTest,
                         testing::Values(config::Moe::softmax, config::Moe::sigmoid,
                                         config::Moe::expert_choice, config::Moe::dense, config::Moe::gshard,
                                         config::Moe::hierarchical, config::Moe::noisy_top_k),
                         [](const auto& test) { return config::Moe::Router_Name(test.param); });

}  // namespace
}  // namespace conclave
