#include "layers/moe/router/supervision.h"

#include <cmath>
#include <complex>

#include "comm/self/self_communicator.h"
#include "layers/moe/router/softmax_router.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/supervision.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

constexpr std::int64_t D = 7, S = 3, E = 5;
constexpr double kGlobalTokens = 4 * S;
constexpr double kWeight = 0.75;

// Sources a (experts 1 and 4), b (left to the router) and c (expert 0).
config::Experiment experiment(double weight) {
  config::Experiment result;
  result.mutable_model()->set_d_model(D);
  result.mutable_model()->set_init_std(0.5);
  config::Moe& moe = *result.mutable_moe();
  moe.set_experts(E);
  moe.set_top_k(2);
  moe.set_balance_loss(0);
  for (const char* name : {"a", "b", "c"}) result.mutable_data()->add_train()->set_name(name);
  moe.mutable_router_supervision()->set_weight(weight);
  config::SourceExperts* label = moe.mutable_router_supervision()->add_sources();
  label->set_source("c");
  label->add_experts(0);
  label = moe.mutable_router_supervision()->add_sources();
  label->set_source("a");
  label->add_experts(1);
  label->add_experts(4);
  return result;
}
const std::vector<std::vector<std::size_t>> kExpertsOfSource = {{1, 4}, {}, {0}};

// Three sequences of sources c, b, a, the last token of the first one padding.
class SupervisionTest : public testing::Test {
 protected:
  SupervisionTest() {
    ctx.grid = &grid;
    ctx.batch.sequences = 3;
    ctx.batch.sequence_length = S;
    ctx.batch.global_sequences = 5;
    ctx.batch.global_padding_tokens = S;
    ctx.source_of_sequence = view(sources, {3});
    ctx.padding = view(padding, {T});
  }
  template <class X>
  X reference_loss(const std::vector<X>& inputs, const std::vector<X>& w) const {
    X loss = 0;
    for (std::size_t t = 0; t < static_cast<std::size_t>(T); ++t) {
      const auto& experts = kExpertsOfSource[static_cast<std::size_t>(sources[t / S])];
      if (experts.empty() || padding[t] != 0) continue;
      std::vector<X> logits(E, X(0));
      for (std::size_t e = 0; e < E; ++e)
        for (std::size_t d = 0; d < D; ++d) logits[e] += inputs[t * D + d] * w[e * D + d];
      loss += kWeight / kGlobalTokens * reference_supervision(logits, experts);
    }
    return loss;
  }

  ConstTensorView gradient_of(const RouterSupervision& supervision, const std::vector<float>& p,
                              ConstTensorView others) {
    BalanceGradient terms{.dprobabilities = others};
    supervision.add_gradient(ctx, view(p, {T, E}), terms, statistics);
    return terms.dprobabilities;
  }

  static constexpr std::int64_t T = 3 * S;
  const std::vector<std::int32_t> sources = {2, 1, 0};
  const std::vector<std::uint8_t> padding = {0, 0, 1, 0, 0, 0, 0, 0, 0};
  std::unique_ptr<Communicator> self = make_self_communicator();
  ProcessGrid grid{*self, 1};
  LocalContext ctx;
  MoeStatistics statistics;
  std::vector<float> x = random_values(T * D, "x");
};

TEST_F(SupervisionTest, LossAndGradientsOfARouter) {
  SoftmaxRouter router(experiment(kWeight), "router");
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  const std::vector<float> w = copy_of(parameters[0]->value());
  const Routing routing = router.forward(ctx, view(x, {T, D}), statistics);
  const std::vector<float> no_gradient(static_cast<std::size_t>(T * 2), 0.0F);
  const std::vector<float> dx = copy_of(router.backward(ctx, view(no_gradient, {T, 2})));

  EXPECT_NEAR(kWeight * statistics.supervision_loss_raw,
              reference_loss(promoted<double>(x), promoted<double>(w)), 1e-5);
  const auto by_x = complex_step_gradient(
      [&](const std::vector<Complex>& at) { return reference_loss(at, promoted<Complex>(w)); }, x);
  const auto by_w = complex_step_gradient(
      [&](const std::vector<Complex>& at) { return reference_loss(promoted<Complex>(x), at); }, w);
  // Probabilities in fp32, some tens of roundings, on gradients of order weight / tokens * |w| or |x|.
  const double bound = 100 * 6e-8 * kWeight / kGlobalTokens * 3;
  expect_within(dx, by_x, std::vector<double>(x.size(), bound), "dx");
  expect_within(copy_of(parameters[0]->gradient()), by_w, std::vector<double>(w.size(), bound * T), "dW");

  // First choices against the labels.
  std::int64_t hits = 0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(T); ++t) {
    const auto& wanted = kExpertsOfSource[static_cast<std::size_t>(sources[t / S])];
    const auto first = static_cast<std::size_t>(routing.experts.values<std::int32_t>()[2 * t]);
    if (padding[t] == 0) hits += std::ranges::count(wanted, first);
  }
  EXPECT_EQ(statistics.labelled_tokens, 5);
  EXPECT_EQ(statistics.labelled_hits, hits);
}

TEST_F(SupervisionTest, AddsToWhatOtherTermsLeft) {
  const RouterSupervision supervision(experiment(kWeight));
  const std::vector<float> p(static_cast<std::size_t>(T * E), 0.2F);
  const std::vector<float> by_sequence = random_values(3 * E, "others");
  const auto alone = copy_of(gradient_of(supervision, p, {}));
  const auto sum = copy_of(gradient_of(supervision, p, view(by_sequence, {3, E})));
  for (std::size_t t = 0; t < static_cast<std::size_t>(T); ++t) {
    for (std::size_t e = 0; e < E; ++e) {
      EXPECT_FLOAT_EQ(sum[t * E + e], alone[t * E + e] + by_sequence[t / S * E + e]) << t << " " << e;
    }
  }
  // d(-ln(0.4)) / dp = -1 / 0.4
  EXPECT_FLOAT_EQ(alone[6 * E + 4], static_cast<float>(-kWeight / kGlobalTokens / 0.4));
  EXPECT_EQ(alone[6 * E + 0], 0.0F);
}

TEST_F(SupervisionTest, ProbabilitiesThatVanishStayFinite) {
  const RouterSupervision supervision(experiment(kWeight));
  std::vector<float> p(static_cast<std::size_t>(T * E), 0.0F);
  for (std::int64_t t = 0; t < T; ++t) p[static_cast<std::size_t>(t * E + 2)] = 1.0F;
  for (const float value : copy_of(gradient_of(supervision, p, {}))) {
    EXPECT_TRUE(std::isfinite(value));
  }
  EXPECT_TRUE(std::isfinite(statistics.supervision_loss_raw));
}

TEST_F(SupervisionTest, WithoutWeightOrSourcesThereIsNoTerm) {
  const std::vector<float> p(static_cast<std::size_t>(T * E), 0.2F);
  const std::vector<float> others(E, 1.0F);
  const ConstTensorView given = view(others, {1, E});
  EXPECT_EQ(gradient_of(RouterSupervision(experiment(0)), p, given).raw(), given.raw());
  ctx.source_of_sequence = {};
  EXPECT_EQ(gradient_of(RouterSupervision(experiment(1)), p, given).raw(), given.raw());
  EXPECT_EQ(statistics.supervision_loss_raw, 0);
}

}  // namespace
}  // namespace conclave
