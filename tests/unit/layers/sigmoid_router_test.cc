#include "layers/moe/router/sigmoid_router.h"

#include <gtest/gtest.h>

#include <span>

#include "comm/self/self_communicator.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/balance_loss.h"
#include "tests/support/reference/sigmoid_top_k.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using test::copy_of;
using test::promoted;
using test::random_values;
using test::SigmoidErrors;
using test::SoftmaxErrors;
using test::view;
using Complex = std::complex<double>;

constexpr std::int64_t D = 11;
constexpr std::int64_t S = 5;
constexpr std::int64_t kGlobalSequences = 4;

config::Experiment experiment(std::int64_t experts, std::int64_t top_k) {
  config::Experiment result;
  result.mutable_run()->set_seed(7);
  result.mutable_model()->set_d_model(D);
  result.mutable_model()->set_init_std(0.3);
  config::Moe& moe = *result.mutable_moe();
  moe.set_router(config::Moe::sigmoid);
  moe.set_experts(experts);
  moe.set_top_k(top_k);
  moe.set_balance_loss(0.5);
  moe.set_z_loss(0.25);
  moe.set_balance_scope(config::Moe::sequence);
  return result;
}

class SigmoidRouterTest : public testing::Test {
 protected:
  // Sequences [first, first + count) of the 4 of a step.
  Context context(std::int64_t first, std::int64_t count, std::int64_t micro_step = 0) {
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch.micro_step = micro_step;
    ctx.batch.first_sequence = first;
    ctx.batch.sequences = count;
    ctx.batch.sequence_length = S;
    ctx.batch.global_sequences = kGlobalSequences;
    return ctx;
  }

  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
  MoeStatistics statistics_;
};

TensorView bias_of(Router& router) {
  std::vector<ShardedTensor> state;
  router.collect_state(state);
  return state.at(0).local;
}

std::span<const float> weight_of(Router& router) {
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  return parameters.at(0)->value().values<float>();
}

// logits [E] of x [D] and W [E, D].
template <class T>
std::vector<T> logits_of(const T* x, const std::vector<T>& w) {
  std::vector<T> logits(w.size() / D, T(0));
  for (std::size_t i = 0; i < w.size(); ++i) logits[i / D] += x[i % D] * w[i];
  return logits;
}

// Everything that the router adds to the loss, for a fixed choice of experts.
template <class T>
T reference_loss(const std::vector<T>& x, const std::vector<T>& w, const config::Moe& moe,
                 const std::vector<std::vector<std::int32_t>>& chosen, const std::vector<float>& dweights) {
  std::vector<std::vector<T>> probabilities;
  std::vector<T> log_sum_exp;
  T loss = 0;
  for (std::size_t t = 0; t < chosen.size(); ++t) {
    const auto result = test::reference_sigmoid_top_k(logits_of(&x[t * D], w), chosen[t],
                                                      moe.normalize_top_k(), moe.routed_scale());
    for (std::size_t k = 0; k < chosen[t].size(); ++k)
      loss += static_cast<double>(dweights[t * chosen[t].size() + k]) * result.weights[k];
    probabilities.push_back(result.probabilities);
    log_sum_exp.push_back(result.log_sum_exp);
  }
  for (std::size_t begin = 0; begin < chosen.size(); begin += S) {
    const auto sequence = [begin](const auto& all) {
      return std::decay_t<decltype(all)>(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                         all.begin() + static_cast<std::ptrdiff_t>(begin) + S);
    };
    loss += moe.balance_loss() / kGlobalSequences *
            test::reference_balance_loss(sequence(probabilities), sequence(chosen));
    loss += moe.z_loss() / kGlobalSequences * test::reference_z_loss(sequence(log_sum_exp));
  }
  return loss;
}

TEST_F(SigmoidRouterTest, MatchesReferenceForwardAndBackward) {
  constexpr std::int64_t sequences = 3;
  constexpr std::int64_t T = sequences * S;
  for (const std::int64_t E : {1, 6, 9})
    for (const std::int64_t K : {std::int64_t{1}, std::int64_t{2}, E}) {
      if (K > E) continue;
      const bool normalize = E != 6;
      SCOPED_TRACE(fmt::format("E {} K {} normalize {}", E, K, normalize));
      config::Experiment config = experiment(E, K);
      config.mutable_moe()->set_normalize_top_k(normalize);
      config.mutable_moe()->set_routed_scale(1.5);
      if (E == 9 && K < E) {
        config.mutable_moe()->set_expert_groups(3);
        config.mutable_moe()->set_top_groups(2);
      }
      SigmoidRouter router(config, "router");
      std::vector<Parameter*> parameters;
      router.collect_parameters(parameters);
      const std::vector<float> w = copy_of(parameters.at(0)->value());
      const std::vector<float> bias = random_values(E, "bias", 0.2);
      std::ranges::copy(bias, bias_of(router).values<float>().begin());

      const std::vector<float> x = random_values(T * D, "x");
      const std::vector<float> dweights = random_values(T * K, "dweights");
      Context ctx = context(0, sequences);
      statistics_ = {};
      const Routing routing = router.forward(ctx, view(x, {T, D}), statistics_);

      // Forward. A logit is off by the bound of a product of D terms; a score's relative derivative in it is
      // at most 1, a share's 2.
      const std::vector<double> exact_w(w.begin(), w.end());
      const std::vector<double> exact_x(x.begin(), x.end());
      std::vector<std::vector<std::int32_t>> chosen;
      std::vector<double> dlogit_magnitude(T);
      std::vector<double> dlogit_error(T);
      double entropy = 0;
      double entropy_error = 0;
      for (std::size_t t = 0; t < T; ++t) {
        const std::vector<double> logits = logits_of(&exact_x[t * D], exact_w);
        double logit_error = 0;
        double range = 0;
        std::vector<double> biased;
        for (std::size_t e = 0; e < logits.size(); ++e) {
          double magnitude = 0;
          for (std::size_t d = 0; d < D; ++d) magnitude += std::abs(exact_x[t * D + d] * exact_w[e * D + d]);
          logit_error = std::max(logit_error, test::dot_bound(D, magnitude));
          range = std::max(range, 2 * std::abs(logits[e]));
          biased.push_back(test::reference_sigmoid(logits[e]) + static_cast<double>(bias[e]));
        }
        chosen.push_back(test::reference_top_k_of_groups(biased, K, config.moe().expert_groups(),
                                                         config.moe().top_groups()));
        const auto wanted = test::reference_sigmoid_top_k(logits, chosen.back(), normalize, 1.5);
        const SigmoidErrors errors{static_cast<double>(E), range};
        const double probability_error = 2 * logit_error + errors.probability();
        const double lse_error =
            logit_error + SoftmaxErrors{static_cast<double>(E), range}.log_sum_exp(std::ranges::max(logits));
        double score_sum = 0;
        double mean_log = 0;
        for (std::size_t e = 0; e < logits.size(); ++e) {
          const double score =
              test::reference_sigmoid(logits[e]) * std::exp(-std::min(0.0, std::ranges::max(logits)));
          score_sum += score;
          mean_log += wanted.probabilities[e] * std::abs(std::log(score));
        }
        entropy += test::reference_entropy(wanted.probabilities);
        entropy_error += errors.entropy(mean_log, std::log(score_sum)) + 2 * (mean_log + 1) * logit_error;

        constexpr double kTokens = kGlobalSequences * S;
        const double z = 2 * config.moe().z_loss() / kTokens;
        double magnitude = 2 * config.moe().balance_loss() * static_cast<double>(E) / kTokens +
                           z * std::abs(wanted.log_sum_exp);
        for (std::int64_t k = 0; k < K; ++k) {
          const auto at = t * static_cast<std::size_t>(K) + static_cast<std::size_t>(k);
          EXPECT_EQ(routing.experts.values<std::int32_t>()[at], chosen.back()[static_cast<std::size_t>(k)]);
          const double weight = wanted.weights[static_cast<std::size_t>(k)];
          EXPECT_NEAR(routing.weights.values<float>()[at], weight, weight * probability_error);
          magnitude += 2 * 1.5 * std::abs(dweights[at]);
        }
        dlogit_magnitude[t] = magnitude;
        // Up to three of p and w and one of 1 - s in a term.
        dlogit_error[t] =
            magnitude * (4 * probability_error + SigmoidErrors::unit() * static_cast<double>(E + K + 14)) +
            z * lse_error;
      }
      EXPECT_NEAR(statistics_.router_entropy_sum, entropy, entropy_error);

      const std::vector<float> dx = copy_of(router.backward(ctx, view(dweights, {T, K})));
      const std::vector<float> dw = copy_of(parameters[0]->gradient());
      const auto complex_x = promoted<Complex>(x);
      const auto complex_w = promoted<Complex>(w);
      std::vector<double> dx_bound;
      for (std::size_t i = 0; i < x.size(); ++i) {
        double column = 0;
        for (std::size_t e = 0; e < static_cast<std::size_t>(E); ++e) column += std::abs(w[e * D + i % D]);
        dx_bound.push_back(column * (dlogit_error[i / D] +
                                     test::dot_bound(static_cast<double>(E), dlogit_magnitude[i / D])));
      }
      const auto loss_of_x = [&](const std::vector<Complex>& point) {
        return reference_loss(point, complex_w, config.moe(), chosen, dweights);
      };
      test::expect_within(dx, test::complex_step_gradient(loss_of_x, x), dx_bound, "dx");
      std::vector<double> dw_bound;
      for (std::size_t i = 0; i < w.size(); ++i) {
        double bound = 0;
        for (std::size_t t = 0; t < T; ++t)
          bound += std::abs(x[t * D + i % D]) * (dlogit_error[t] + test::dot_bound(T, dlogit_magnitude[t]));
        dw_bound.push_back(bound);
      }
      const auto loss_of_w = [&](const std::vector<Complex>& point) {
        return reference_loss(complex_x, point, config.moe(), chosen, dweights);
      };
      test::expect_within(dw, test::complex_step_gradient(loss_of_w, w), dw_bound, "dW");
      arena_.reset();
    }
}

// b += u sign(mean(c) - c), b -= mean(b), from the choices of a step that is cut into micro-batches of `part`
// sequences.
std::vector<float> bias_after_steps(const config::Experiment& config, const Context& like,
                                    std::int64_t part) {
  SigmoidRouter router(config, "router");
  const std::vector<float> x = random_values(kGlobalSequences * S * D, "x");
  Context ctx = like;
  MoeStatistics statistics;
  for (ctx.batch.step = 0; ctx.batch.step < 3; ++ctx.batch.step) {
    for (std::int64_t first = 0; first < kGlobalSequences; first += part) {
      ctx.batch.micro_step = first / part;
      ctx.batch.first_sequence = first;
      ctx.batch.sequences = part;
      router.forward(ctx, view(x, {kGlobalSequences * S, D}).rows(first * S, (first + part) * S), statistics);
    }
    router.end_step(ctx);
  }
  return copy_of(bias_of(router));
}

TEST_F(SigmoidRouterTest, TheBiasFollowsTheLoadOfTheGlobalBatch) {
  config::Experiment config = experiment(5, 2);
  constexpr double kRate = 0.05;
  config.mutable_moe()->set_bias_update_rate(kRate);
  const std::vector<float> x = random_values(kGlobalSequences * S * D, "x");
  SigmoidRouter fresh(config, "router");
  const std::vector<double> w(weight_of(fresh).begin(), weight_of(fresh).end());

  std::vector<double> bias(5, 0);
  for (int step = 0; step < 3; ++step) {
    std::vector<int> chosen(5, 0);
    for (std::size_t t = 0; t < kGlobalSequences * S; ++t) {
      const std::vector<double> token(x.begin() + static_cast<std::ptrdiff_t>(t * D),
                                      x.begin() + static_cast<std::ptrdiff_t>((t + 1) * D));
      std::vector<double> biased = logits_of(token.data(), w);
      for (std::size_t e = 0; e < 5; ++e) biased[e] = test::reference_sigmoid(biased[e]) + bias[e];
      for (const std::int32_t expert : test::reference_top_k(biased, 2))
        ++chosen[static_cast<std::size_t>(expert)];
    }
    double mean = 0;
    for (std::size_t e = 0; e < 5; ++e) {
      const double gap = kGlobalSequences * S * 2 / 5.0 - chosen[e];
      bias[e] += kRate * ((gap > 0) - (gap < 0));
      mean += bias[e] / 5;
    }
    for (double& value : bias) value -= mean;
  }
  ASSERT_GT(std::ranges::max(bias), kRate / 2);  // there was something to balance
  const std::vector<float> whole = bias_after_steps(config, context(0, 4), 4);
  // Three roundings a step of numbers below 3 * 2 * rate.
  for (std::size_t e = 0; e < 5; ++e)
    EXPECT_NEAR(whole[e], bias[e], 3 * 3 * 6 * kRate * SigmoidErrors::unit());
  EXPECT_EQ(bias_after_steps(config, context(0, 4), 2), whole);
  EXPECT_EQ(bias_after_steps(config, context(0, 4), 1), whole);
}

// The same routing goes on to the same bias, whatever a run did beside it.
TEST_F(SigmoidRouterTest, SkippedStepsAndEvaluationDoNotCount) {
  const config::Experiment config = experiment(5, 2);
  const std::vector<float> x = random_values(S * D, "x");
  const std::vector<float> other = random_values(2 * S * D, "other");
  std::vector<std::vector<float>> biases;
  for (const bool disturbed : {false, true}) {
    SigmoidRouter router(config, "router");
    Context ctx = context(0, 2);
    if (disturbed) router.forward(ctx, view(other, {2 * S, D}), statistics_);  // no end_step: skipped
    ctx = context(0, 1);
    router.forward(ctx, view(x, {S, D}), statistics_);
    if (disturbed) {
      Context evaluation = context(0, 2);
      evaluation.training = false;
      router.forward(evaluation, view(other, {2 * S, D}), statistics_);
    }
    router.end_step(ctx);
    biases.push_back(copy_of(bias_of(router)));
    EXPECT_NE(biases.back(), std::vector<float>(5, 0.0F));
  }
  EXPECT_EQ(biases[0], biases[1]);
}

TEST_F(SigmoidRouterTest, AtRateZeroTheBiasStays) {
  config::Experiment config = experiment(5, 2);
  config.mutable_moe()->set_bias_update_rate(0);
  EXPECT_EQ(bias_after_steps(config, context(0, 4), 2), std::vector<float>(5, 0.0F));
}

TEST_F(SigmoidRouterTest, StateIsNamedAndEvaluationUsesIt) {
  SigmoidRouter router(experiment(5, 1), "layers.3.moe.router");
  std::vector<ShardedTensor> state;
  router.collect_state(state);
  ASSERT_EQ(state.size(), 1U);
  EXPECT_EQ(state[0].name, "layers.3.moe.router.bias");
  EXPECT_EQ(state[0].global_shape, (Shape{5}));
  EXPECT_EQ(state[0].sharding, Sharding::kReplicated);
  state[0].local.values<float>()[3] = 2;  // more than any score
  const std::vector<float> x = random_values(S * D, "x");
  Context ctx = context(0, 1);
  ctx.training = false;
  ctx.grid = nullptr;  // nothing is communicated
  const Routing routing = router.forward(ctx, view(x, {S, D}), statistics_);
  for (const std::int32_t expert : routing.experts.values<std::int32_t>()) EXPECT_EQ(expert, 3);
}

// Padding at the end of a sequence changes nothing for the tokens before it.
TEST_F(SigmoidRouterTest, PaddingTakesNoPart) {
  config::Experiment config = experiment(5, 2);
  config.mutable_moe()->set_balance_loss(0);
  const std::vector<float> x = random_values(S * D, "x");
  const std::vector<float> dweights = random_values(S * 2, "dweights");
  constexpr std::int64_t kTokens = 3;
  const std::vector<std::uint8_t> padding{0, 0, 0, 1, 1};

  std::vector<std::vector<float>> weights, gradients, dxs, biases;
  std::vector<double> entropies;
  for (const bool padded : {false, true}) {
    SigmoidRouter router(config, "router");
    std::vector<Parameter*> parameters;
    router.collect_parameters(parameters);
    Context ctx = context(0, 1);
    const std::int64_t T = padded ? S : kTokens;
    ctx.batch.sequence_length = T;
    if (padded) ctx.padding = view(padding, {S});
    ctx.batch.global_padding_tokens = padded ? kGlobalSequences * (S - kTokens) : 0;  // the same mean
    statistics_ = {};
    const Routing routing = router.forward(ctx, view(x, {S, D}).rows(0, T), statistics_);
    for (std::int64_t t = kTokens; t < T; ++t) {
      for (const std::int32_t expert : routing.experts.rows(t, t + 1).values<std::int32_t>())
        EXPECT_EQ(expert, kNoExpert);
      for (const float weight : routing.weights.rows(t, t + 1).values<float>()) EXPECT_EQ(weight, 0);
    }
    weights.push_back(copy_of(routing.weights.rows(0, kTokens)));
    const TensorView dx = router.backward(ctx, view(dweights, {S, 2}).rows(0, T));
    for (const float value : dx.rows(kTokens, T).values<float>()) EXPECT_EQ(value, 0);
    dxs.push_back(copy_of(dx.rows(0, kTokens)));
    gradients.push_back(copy_of(parameters.at(0)->gradient()));
    router.end_step(ctx);
    biases.push_back(copy_of(bias_of(router)));
    entropies.push_back(statistics_.router_entropy_sum);
  }
  EXPECT_EQ(weights[0], weights[1]);
  EXPECT_EQ(biases[0], biases[1]);
  EXPECT_EQ(entropies[0], entropies[1]);
  // Products of other sizes may be summed in another order.
  for (std::size_t i = 0; i < dxs[0].size(); ++i) EXPECT_NEAR(dxs[0][i], dxs[1][i], 1e-6);
  for (std::size_t i = 0; i < gradients[0].size(); ++i) EXPECT_NEAR(gradients[0][i], gradients[1][i], 1e-6);
}

TEST_F(SigmoidRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment(4, 2);
    config.mutable_moe()->set_balance_scope(scope);
    config.mutable_moe()->set_jitter(0.1);
    SigmoidRouter router(config, "router");
    Context ctx = context(0, 0);
    const Routing routing = router.forward(ctx, {nullptr, {0, D}, DType::kFloat32}, statistics_);
    EXPECT_EQ(routing.experts.shape(), (Shape{0, 2}));
    EXPECT_EQ(router.backward(ctx, {nullptr, {0, 2}, DType::kFloat32}).shape(), (Shape{0, D}));
    router.end_step(ctx);  // nobody chose anything: all tie
    EXPECT_EQ(copy_of(bias_of(router)), std::vector<float>(4, 0.0F));
  }
}

TEST_F(SigmoidRouterTest, IsMadeByName) {
  const std::unique_ptr<Router> router = make_router(experiment(6, 2), "a");
  std::vector<ShardedTensor> state;
  router->collect_state(state);
  EXPECT_EQ(state.at(0).name, "a.bias");
}

// Micro-batches of the same size take nothing from the system after the first.
TEST_F(SigmoidRouterTest, AllocatesNothingInSteadyState) {
  config::Experiment config = experiment(6, 2);
  config.mutable_moe()->set_jitter(0.1);
  config.mutable_moe()->set_expert_groups(3);
  config.mutable_moe()->set_top_groups(2);
  SigmoidRouter router(config, "router");
  const std::vector<float> x = random_values(4 * S * D, "x");
  const std::vector<float> dweights = random_values(4 * S * 2, "dweights");
  std::int64_t after_first = 0;
  for (int round = 0; round < 3; ++round) {
    Context ctx = context(0, 4);
    router.forward(ctx, view(x, {4 * S, D}), statistics_);
    router.backward(ctx, view(dweights, {4 * S, 2}));
    arena_.reset();
    if (round == 0) after_first = arena_.system_allocations();
  }
  EXPECT_EQ(arena_.system_allocations(), after_first);
}

}  // namespace
}  // namespace conclave
