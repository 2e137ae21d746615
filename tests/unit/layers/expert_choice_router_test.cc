#include "layers/moe/router/expert_choice_router.h"

#include <gtest/gtest.h>

#include <complex>
#include <span>

#include "comm/self/self_communicator.h"
#include "layers/moe/dispatch_plan.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/expert_choice.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using Complex = std::complex<double>;
using test::promoted;
using test::random_values;

constexpr std::int64_t D = 13;

config::Experiment experiment(std::int64_t experts, std::int64_t top_k, double capacity_factor) {
  config::Experiment result;
  result.mutable_run()->set_seed(7);
  result.mutable_model()->set_d_model(D);
  result.mutable_model()->set_init_std(0.3);
  config::Moe& moe = *result.mutable_moe();
  moe.set_router(config::Moe::expert_choice);
  moe.set_experts(experts);
  moe.set_top_k(top_k);
  moe.set_capacity_factor(capacity_factor);
  moe.set_routed_scale(1.5);
  moe.set_balance_loss(0);
  moe.set_z_loss(0.25);
  return result;
}

class ExpertChoiceRouterTest : public testing::Test {
 protected:
  Context context(std::int64_t sequences, std::int64_t length) {
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch.sequences = sequences;
    ctx.batch.sequence_length = length;
    ctx.batch.global_sequences = 4;
    return ctx;
  }

  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
  MoeStatistics statistics_;
};

TEST_F(ExpertChoiceRouterTest, MatchesReferenceForwardAndBackward) {
  constexpr std::int64_t sequences = 2;
  for (const std::int64_t E : {1, 4, 7})
    for (const std::int64_t S : {1, 5, 9})
      for (const double factor : {0.5, 1.25, 100.0}) {
        SCOPED_TRACE(fmt::format("E {} S {} factor {}", E, S, factor));
        const std::int64_t T = sequences * S;
        const std::int64_t K = std::min<std::int64_t>(E, 2);
        const config::Experiment config = experiment(E, K, factor);
        ExpertChoiceRouter router(config, "router");
        std::vector<Parameter*> parameters;
        router.collect_parameters(parameters);
        const std::vector<float> w = test::copy_of(parameters.at(0)->value());
        const std::vector<float> x = random_values(T * D, "x");
        const std::vector<float> dweights = random_values(T * E, "dweights");
        Context ctx = context(sequences, S);
        statistics_ = {};
        const Routing routing = router.forward(ctx, test::view(x, {T, D}), statistics_);
        ASSERT_EQ(routing.experts.shape(), (Shape{T, E}));

        // Every logit is off by at most this; p, relatively, by twice that and the roundings of exp and sum.
        double logit_error = 0;
        for (std::int64_t t = 0; t < T; ++t)
          for (std::int64_t e = 0; e < E; ++e) {
            double magnitude = 0;
            for (std::int64_t d = 0; d < D; ++d)
              magnitude += std::abs(double(x[static_cast<std::size_t>(t * D + d)]) *
                                    double(w[static_cast<std::size_t>(e * D + d)]));
            logit_error = std::max(logit_error, test::dot_bound(D, magnitude));
          }
        const double p_error =
            2 * logit_error + (static_cast<double>(E) + 32) * std::numeric_limits<float>::epsilon();

        const test::ReferenceScores<double> scores(promoted<double>(x), promoted<double>(w), D);
        const auto capacity = static_cast<std::int64_t>(
            std::min(static_cast<double>(S), std::ceil(factor * double(K) * double(S) / double(E))));
        EXPECT_EQ(expert_choice_capacity(config.moe(), S), capacity);
        std::vector<std::vector<std::int32_t>> experts_of;
        for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
          const auto choice = test::reference_expert_choice(
              {scores.p.begin() + sequence * S, scores.p.begin() + (sequence + 1) * S}, capacity);
          // One expert ties exactly on both sides: every p is 1.
          if (E > 1) {
            ASSERT_GT(choice.smallest_gap, 2 * p_error) << "rounding might change a choice: take other data";
          }
          experts_of.insert(experts_of.end(), choice.experts_of.begin(), choice.experts_of.end());
        }
        for (std::size_t t = 0; t < experts_of.size(); ++t)
          for (std::size_t k = 0; k < static_cast<std::size_t>(E); ++k) {
            const bool empty = k >= experts_of[t].size();
            const std::int32_t expert = empty ? kNoExpert : experts_of[t][k];
            const double weight = empty ? 0 : 1.5 * scores.p[t][static_cast<std::size_t>(expert)];
            const std::size_t at = t * static_cast<std::size_t>(E) + k;
            EXPECT_EQ(routing.experts.values<std::int32_t>()[at], expert);
            EXPECT_NEAR(routing.weights.values<float>()[at], weight, weight * p_error);
          }

        // sum dweights w + z-loss, with the choice fixed.
        const auto loss = [&](const std::vector<Complex>& at_x, const std::vector<Complex>& at_w) {
          const test::ReferenceScores<Complex> moved(at_x, at_w, D);
          Complex sum = 0;
          for (std::size_t t = 0; t < experts_of.size(); ++t) {
            for (std::size_t k = 0; k < experts_of[t].size(); ++k)
              sum += 1.5 * double(dweights[t * static_cast<std::size_t>(E) + k]) *
                     moved.p[t][static_cast<std::size_t>(experts_of[t][k])];
            sum += 0.25 / double(4 * S) * moved.log_sum_exp[t] * moved.log_sum_exp[t];
          }
          return sum;
        };
        const auto dx_expected = test::complex_step_gradient(
            [&](const std::vector<Complex>& at) { return loss(at, promoted<Complex>(w)); }, x);
        const auto dw_expected = test::complex_step_gradient(
            [&](const std::vector<Complex>& at) { return loss(promoted<Complex>(x), at); }, w);

        // |dlogit| is at most the sum over the choices of 3 |dweight|, and the z term's.
        double dlogit = 0;
        for (const float value : dweights) dlogit = std::max(dlogit, 3.0 * std::abs(double(value)));
        dlogit = dlogit * double(E) + 1;
        const double dlogit_error = dlogit * 4 * p_error;
        const test::ThreadCount one(1);
        const TensorView dx = router.backward(ctx, test::view(dweights, {T, E}));
        double largest_x = 0;
        double largest_w = 0;
        for (const float value : x) largest_x = std::max(largest_x, std::abs(double(value)));
        for (const float value : w) largest_w = std::max(largest_w, std::abs(double(value)));
        test::expect_within(test::copy_of(dx), dx_expected,
                            std::vector<double>(x.size(), double(E) * largest_w * dlogit_error), "dx");
        test::expect_within(test::copy_of(parameters[0]->gradient()), dw_expected,
                            std::vector<double>(w.size(), double(T) * largest_x * dlogit_error), "dW");
        arena_.reset();
      }
}

TEST_F(ExpertChoiceRouterTest, TiesKeepTheLowerTokenAndTheLowerExpert) {
  const config::Experiment config = experiment(3, 1, 1.0);
  ExpertChoiceRouter router(config, "router");
  const std::vector<float> x(6 * D, 0.0F);  // all scores are 1/3; each expert takes 2 of 6 tokens
  Context ctx = context(1, 6);
  const Routing routing = router.forward(ctx, test::view(x, {6, D}), statistics_);
  const auto experts = routing.experts.values<std::int32_t>();
  EXPECT_EQ(std::vector<std::int32_t>(experts.begin(), experts.begin() + 6),
            (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_TRUE(std::ranges::all_of(experts.subspan(6), [](std::int32_t e) { return e == kNoExpert; }));
}

// A sequence's routing is the same by itself and among others, in training and outside of it.
TEST_F(ExpertChoiceRouterTest, DependsOnNothingButTheSequence) {
  constexpr std::int64_t S = 8;
  ExpertChoiceRouter router(experiment(5, 2, 0.7), "router");
  const std::vector<float> x = random_values(3 * S * D, "x");
  Context all = context(3, S);
  const Routing together = router.forward(all, test::view(x, {3 * S, D}), statistics_);
  Context one = context(1, S);
  one.training = false;
  const Routing alone = router.forward(one, test::view(x, {3 * S, D}).rows(S, 2 * S), statistics_);
  EXPECT_TRUE(std::ranges::equal(together.experts.rows(S, 2 * S).values<std::int32_t>(),
                                 alone.experts.values<std::int32_t>()));
}

TEST_F(ExpertChoiceRouterTest, LoadIsEvenAndNothingIsDropped) {
  constexpr std::int64_t S = 12;
  const config::Experiment config = experiment(4, 2, 1.0);
  ExpertChoiceRouter router(config, "router");
  const std::vector<float> x = random_values(2 * S * D, "x");
  Context ctx = context(2, S);
  const Routing routing = router.forward(ctx, test::view(x, {2 * S, D}), statistics_);
  DispatchPlan plan;
  make_dispatch_plan(routing, 4, 2 * S, config::Moe::position, plan);
  EXPECT_EQ(plan.chosen_per_expert, std::vector<std::int64_t>(4, 2 * S * 2 / 4));
  EXPECT_EQ(plan.rows(), 2 * S * 2);
}

TEST_F(ExpertChoiceRouterTest, TakesZeroTokens) {
  ExpertChoiceRouter router(experiment(4, 2, 1.0), "router");
  Context ctx = context(0, 5);
  EXPECT_EQ(router.forward(ctx, {nullptr, {0, D}, DType::kFloat32}, statistics_).experts.shape(),
            (Shape{0, 4}));
  EXPECT_EQ(router.backward(ctx, {nullptr, {0, 4}, DType::kFloat32}).shape(), (Shape{0, D}));
}

// A diverged model must reach the trainer as a loss that is not a number.
TEST_F(ExpertChoiceRouterTest, SurvivesNan) {
  ExpertChoiceRouter router(experiment(4, 2, 1.0), "router");
  const std::vector<float> x(6 * D, std::numeric_limits<float>::quiet_NaN());
  Context ctx = context(1, 6);
  const Routing routing = router.forward(ctx, test::view(x, {6, D}), statistics_);
  EXPECT_TRUE(std::isnan(routing.weights.values<float>()[0]));
}

}  // namespace
}  // namespace conclave
