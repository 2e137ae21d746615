#include "layers/moe/router/forced_balance.h"

#include "comm/self/self_communicator.h"
#include "layers/moe/router/softmax_router.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using namespace test;

TEST(ForcedBalance, DealsInTurnFromTheGlobalTokenNumber) {
  LocalContext ctx;
  ctx.batch.first_sequence = 3;
  ctx.batch.sequence_length = 7;  // token 21 of the batch is the first one here
  const std::vector<float> p = {0.1F, 0.2F, 0.3F, 0.4F, 0.25F, 0.25F, 0.25F, 0.25F};
  std::vector<std::int32_t> experts(4);
  std::vector<float> weights(4);
  const auto deal = [&](bool normalize) {
    deal_in_turn(ctx, {.scores = view(p, {2, 4}),
                       .normalize = normalize,
                       .scale = 2,
                       .experts = view(experts, {2, 2}),
                       .weights = view(weights, {2, 2})});
  };
  deal(/*normalize=*/false);
  EXPECT_EQ(experts, (std::vector<std::int32_t>{2, 3, 0, 1}));  // choices 42 to 45, mod 4
  EXPECT_FLOAT_EQ(weights[0], 2 * 0.3F);
  EXPECT_FLOAT_EQ(weights[1], 2 * 0.4F);
  deal(/*normalize=*/true);
  EXPECT_FLOAT_EQ(weights[0], 2 * 0.3F / 0.7F);
  EXPECT_FLOAT_EQ(weights[2], 1.0F);
}

TEST(ForcedBalance, ARouterLoadsExpertsEvenlyAndStillLearnsItsWeights) {
  config::Experiment experiment;
  experiment.mutable_model()->set_d_model(6);
  experiment.mutable_model()->set_init_std(3);  // strong opinions
  experiment.mutable_moe()->set_experts(5);
  experiment.mutable_moe()->set_top_k(2);
  experiment.mutable_moe()->set_force_balanced(true);
  SoftmaxRouter router(experiment, "router");
  const auto self = make_self_communicator();
  const ProcessGrid grid(*self, 1);
  LocalContext ctx;
  ctx.grid = &grid;
  ctx.batch.sequences = 1;
  ctx.batch.sequence_length = 20;
  ctx.batch.global_sequences = 1;
  const auto x = random_values(20 * 6, "x");
  MoeStatistics statistics;
  const Routing routing = router.forward(ctx, view(x, {20, 6}), statistics);
  std::vector<int> load(5);
  for (const std::int32_t expert : routing.experts.values<std::int32_t>())
    ++load[static_cast<std::size_t>(expert)];
  EXPECT_EQ(load, (std::vector<int>{8, 8, 8, 8, 8}));

  const auto dweights = random_values(20 * 2, "dweights");
  router.backward(ctx, view(dweights, {20, 2}));
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  double squares = 0;
  for (const float value : parameters[0]->gradient().values<float>()) squares += value * value;
  EXPECT_GT(squares, 0);
}

}  // namespace
}  // namespace conclave
