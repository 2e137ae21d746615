#include "layers/moe/router/softmax_router.h"

#include <gtest/gtest.h>

#include <complex>
#include <span>

#include "comm/self/self_communicator.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/balance_loss.h"
#include "tests/support/reference/sigmoid_top_k.h"
#include "tests/support/reference/softmax_top_k.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using Complex = std::complex<double>;
using test::promoted;
using test::random_values;
using test::SoftmaxErrors;

constexpr std::int64_t D = 19;
constexpr std::int64_t S = 5;

config::Experiment experiment(std::int64_t experts, std::int64_t top_k, bool normalize) {
  config::Experiment result;
  result.mutable_run()->set_seed(7);
  result.mutable_model()->set_d_model(D);
  result.mutable_model()->set_init_std(0.3);
  config::Moe& moe = *result.mutable_moe();
  moe.set_experts(experts);
  moe.set_top_k(top_k);
  moe.set_normalize_top_k(normalize);
  moe.set_balance_loss(0.5);
  moe.set_z_loss(0.25);
  moe.set_balance_scope(config::Moe::sequence);
  return result;
}

class SoftmaxRouterTest : public testing::Test {
 protected:
  // A rank with `sequences` of the 4 sequences of the step.
  Context context(std::int64_t sequences) {
    Context ctx{.arena = &arena_, .grid = &grid_};
    ctx.batch.sequences = sequences;
    ctx.batch.sequence_length = S;
    ctx.batch.global_sequences = 4;
    return ctx;
  }

  Arena arena_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  ProcessGrid grid_{*world_, 1};
  MoeStatistics statistics_;
};

// The factors of the input noise, by definition, for tokens that start the run.
std::vector<double> noise(const config::Experiment& config, const std::string& name, std::int64_t tokens) {
  const RandomStream random(config.run().seed(), name + "/jitter", 0);
  std::vector<double> factors;
  for (std::uint64_t t = 0; t < static_cast<std::uint64_t>(tokens); ++t)
    for (std::uint64_t d = 0; d < D; ++d) {
      const double u = random.uniform4(t * ((D + 3) / 4) + d / 4)[d % 4];
      factors.push_back(1 - config.moe().jitter() + 2 * config.moe().jitter() * u);
    }
  return factors;
}

// Everything that the router adds to the loss, from x [T, D], W [E, D] and the gradient that comes back to
// the weights, for a fixed choice of experts.
template <class T>
T reference_loss(const std::vector<T>& x, const std::vector<T>& w, const config::Moe& moe,
                 const std::vector<double>& factors, const std::vector<std::vector<std::int32_t>>& chosen,
                 const std::vector<float>& dweights) {
  const auto E = static_cast<std::size_t>(moe.experts());
  std::vector<std::vector<T>> probabilities;
  std::vector<T> log_sum_exp;
  T loss = 0;
  for (std::size_t t = 0; t < chosen.size(); ++t) {
    std::vector<T> logits(E, T(0));
    for (std::size_t e = 0; e < E; ++e)
      for (std::size_t d = 0; d < D; ++d) logits[e] += x[t * D + d] * factors[t * D + d] * w[e * D + d];
    const auto result = test::reference_softmax_top_k(logits, chosen[t], moe.normalize_top_k());
    for (std::size_t k = 0; k < chosen[t].size(); ++k)
      loss +=
          moe.routed_scale() * static_cast<double>(dweights[t * chosen[t].size() + k]) * result.weights[k];
    probabilities.push_back(result.probabilities);
    log_sum_exp.push_back(result.log_sum_exp);
  }
  // Sequence scope; every sequence is one of four in the global batch.
  for (std::size_t begin = 0; begin < chosen.size(); begin += S) {
    const auto part = [begin](const auto& all) {
      return std::decay_t<decltype(all)>(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                         all.begin() + static_cast<std::ptrdiff_t>(begin) + S);
    };
    loss += moe.balance_loss() / 4 * test::reference_balance_loss(part(probabilities), part(chosen));
    loss += moe.z_loss() / 4 * test::reference_z_loss(part(log_sum_exp));
  }
  return loss;
}

TEST_F(SoftmaxRouterTest, MatchesReferenceForwardAndBackward) {
  constexpr std::int64_t sequences = 3;
  constexpr std::int64_t T = sequences * S;
  constexpr double kStep = 1e-40;
  for (const std::int64_t E : {1, 6, 9})
    for (const std::int64_t K : {std::int64_t{1}, std::int64_t{2}, E})
      for (const bool normalize : {false, true}) {
        if (K > E) continue;
        SCOPED_TRACE(fmt::format("E {} K {} normalize {}", E, K, normalize));
        config::Experiment config = experiment(E, K, normalize);
        if (!normalize) config.mutable_moe()->set_jitter(0.1);  // Switch, with one choice
        if (E == 6) config.mutable_moe()->set_routed_scale(1.5);
        if (E == 9 && K < E) {
          config.mutable_moe()->set_expert_groups(3);
          config.mutable_moe()->set_top_groups(2);
        }
        SoftmaxRouter router(config, "layers.0.moe.router");
        std::vector<Parameter*> parameters;
        router.collect_parameters(parameters);
        ASSERT_EQ(parameters.size(), 1U);
        const std::span<const float> w = parameters[0]->value().values<float>();

        const std::vector<float> x = random_values(T * D, "x");
        const std::vector<float> dweights = random_values(T * K, "dweights");
        const std::vector<double> factors = noise(config, "layers.0.moe.router", T);
        Context ctx = context(sequences);
        statistics_ = {};
        const Routing routing =
            router.forward(ctx, tensor_view(std::span<const float>(x), {T, D}), statistics_);
        ASSERT_EQ(routing.experts.shape(), (Shape{T, K}));
        ASSERT_EQ(routing.weights.shape(), (Shape{T, K}));

        // Forward. A logit is off by the bound of a product of D terms, a probability by twice that more.
        std::vector<std::vector<std::int32_t>> chosen;
        std::vector<double> probability_error;  // relative, by token
        std::vector<double> lse_error;          // absolute, by token
        std::vector<double> lse_magnitude;
        double entropy = 0;
        double entropy_error = 0;
        for (std::int64_t t = 0; t < T; ++t) {
          std::vector<double> logits(static_cast<std::size_t>(E), 0);
          double logit_error = 0;
          for (std::int64_t e = 0; e < E; ++e) {
            double magnitude = 0;
            for (std::int64_t d = 0; d < D; ++d) {
              const double product = static_cast<double>(x[static_cast<std::size_t>(t * D + d)]) *
                                     factors[static_cast<std::size_t>(t * D + d)] *
                                     static_cast<double>(w[static_cast<std::size_t>(e * D + d)]);
              logits[static_cast<std::size_t>(e)] += product;
              magnitude += std::abs(product);
            }
            // Three roundings of a factor of noise and one of its product with x.
            logit_error = std::max(logit_error, test::dot_bound(D, magnitude, 2 + 4));
          }
          const auto [low, high] = std::ranges::minmax(logits);
          const SoftmaxErrors errors{static_cast<double>(E), high - low};
          probability_error.push_back(2 * logit_error + errors.probability());
          lse_error.push_back(logit_error + errors.log_sum_exp(high));
          std::vector<double> exponentials;
          for (const double logit : logits) exponentials.push_back(std::exp(logit));
          chosen.push_back(test::reference_top_k_of_groups(exponentials, K, config.moe().expert_groups(),
                                                           config.moe().top_groups()));
          const auto wanted = test::reference_softmax_top_k(logits, chosen.back(), normalize);
          lse_magnitude.push_back(std::abs(wanted.log_sum_exp));
          for (std::int64_t k = 0; k < K; ++k) {
            const auto at = static_cast<std::size_t>(t * K + k);
            EXPECT_EQ(routing.experts.values<std::int32_t>()[at], chosen.back()[static_cast<std::size_t>(k)]);
            const double weight = config.moe().routed_scale() * wanted.weights[static_cast<std::size_t>(k)];
            EXPECT_NEAR(routing.weights.values<float>()[at], weight, weight * probability_error.back());
          }
          entropy += test::reference_entropy(wanted.probabilities);
          // Its derivative in a logit is p (mean - ...): at most 2 range in sum.
          entropy_error += errors.entropy(high - low) + 2 * (high - low) * logit_error;
        }
        EXPECT_NEAR(statistics_.router_entropy_sum, entropy, entropy_error);

        // Backward. |dlogit| <= p (...) <= the bound below, with every p and w off by probability_error.
        const TensorView dx = router.backward(ctx, tensor_view(std::span(dweights), {T, K}));
        const std::span<const float> dw = parameters[0]->gradient().values<float>();
        ASSERT_EQ(dx.shape(), (Shape{T, D}));
        std::vector<double> dlogit_magnitude;
        std::vector<double> dlogit_error;
        for (std::int64_t t = 0; t < T; ++t) {
          const auto at = static_cast<std::size_t>(t);
          double magnitude = 2 * config.moe().balance_loss() * static_cast<double>(E) / (4 * S);
          const double z = 2 * config.moe().z_loss() / (4 * S);
          magnitude += z * lse_magnitude[at];
          for (std::int64_t k = 0; k < K; ++k)
            magnitude +=
                2 * config.moe().routed_scale() * std::abs(dweights[static_cast<std::size_t>(t * K + k)]);
          dlogit_magnitude.push_back(magnitude);
          dlogit_error.push_back(magnitude * (3 * probability_error[at] +
                                              SoftmaxErrors::unit() * static_cast<double>(E + K + 8)) +
                                 z * lse_error[at]);
        }
        const auto complex_x = promoted<Complex>(x);
        const auto complex_w = promoted<Complex>(w);
        for (std::size_t i = 0; i < complex_x.size(); ++i) {
          auto moved = complex_x;
          moved[i] += Complex(0, kStep);
          const double wanted =
              reference_loss(moved, complex_w, config.moe(), factors, chosen, dweights).imag() / kStep;
          double column = 0;
          for (std::int64_t e = 0; e < E; ++e) column += std::abs(w[static_cast<std::size_t>(e) * D + i % D]);
          column *= factors[i];
          EXPECT_NEAR(dx.values<float>()[i], wanted,
                      column * dlogit_error[i / D] +
                          test::dot_bound(static_cast<double>(E), column * dlogit_magnitude[i / D], 2 + 4))
              << "x " << i;
        }
        for (std::size_t i = 0; i < complex_w.size(); ++i) {
          auto moved = complex_w;
          moved[i] += Complex(0, kStep);
          const double wanted =
              reference_loss(complex_x, moved, config.moe(), factors, chosen, dweights).imag() / kStep;
          double error = 0;
          for (std::size_t t = 0; t < static_cast<std::size_t>(T); ++t)
            error += std::abs(x[t * D + i % D]) * factors[t * D + i % D] *
                     (dlogit_error[t] + test::dot_bound(T, dlogit_magnitude[t], 2 + 4));
          EXPECT_NEAR(dw[i], wanted, error) << "w " << i;
        }
        arena_.reset();
      }
}

TEST_F(SoftmaxRouterTest, GradientsOfParametersAddUp) {
  constexpr std::int64_t T = 2 * S;
  config::Experiment config = experiment(4, 2, true);
  config.mutable_moe()->set_balance_loss(0);
  config.mutable_moe()->set_z_loss(0);
  SoftmaxRouter router(config, "router");
  std::vector<Parameter*> parameters;
  router.collect_parameters(parameters);
  const std::span<const float> dw = parameters[0]->gradient().values<float>();
  const std::vector<float> x = random_values(T * D, "x");
  const std::vector<float> dweights = random_values(T * 2, "dweights");
  Context ctx = context(2);
  std::vector<float> once;
  for (const int round : {1, 2}) {
    router.forward(ctx, tensor_view(std::span<const float>(x), {T, D}), statistics_);
    router.backward(ctx, tensor_view(std::span(dweights), {T, 2}));
    if (round == 1) once.assign(dw.begin(), dw.end());
  }
  for (std::size_t i = 0; i < once.size(); ++i) {
    // The same products, twice; |dlogit| <= 2 w |dweight| <= the sum over the choices.
    double magnitude = 0;
    for (std::size_t t = 0; t < T; ++t)
      magnitude +=
          std::abs(x[t * D + i % D]) * 2 * (std::abs(dweights[2 * t]) + std::abs(dweights[2 * t + 1]));
    EXPECT_NEAR(dw[i], 2 * once[i], 2 * test::dot_bound(T + 1, magnitude));
  }
}

TEST_F(SoftmaxRouterTest, EvaluationTakesNoLossTerms) {
  SoftmaxRouter router(experiment(4, 2, true), "router");
  const std::vector<float> x = random_values(S * D, "x");
  Context ctx = context(1);
  ctx.training = false;
  ctx.grid = nullptr;  // nothing is communicated
  ctx.batch.global_sequences = 0;
  router.forward(ctx, tensor_view(std::span<const float>(x), {S, D}), statistics_);
  EXPECT_GT(statistics_.router_entropy_sum, 0);
  EXPECT_EQ(statistics_.balance_loss_raw, 0);
  EXPECT_EQ(statistics_.z_loss_raw, 0);
}

TEST_F(SoftmaxRouterTest, TakesZeroTokens) {
  for (const auto scope : {config::Moe::batch, config::Moe::sequence, config::Moe::global_batch}) {
    config::Experiment config = experiment(4, 2, true);
    config.mutable_moe()->set_balance_scope(scope);
    SoftmaxRouter router(config, "router");
    Context ctx = context(0);
    const Routing routing = router.forward(ctx, {nullptr, {0, D}, DType::kFloat32}, statistics_);
    EXPECT_EQ(routing.experts.shape(), (Shape{0, 2}));
    EXPECT_EQ(router.backward(ctx, {nullptr, {0, 2}, DType::kFloat32}).shape(), (Shape{0, D}));
    EXPECT_EQ(statistics_.router_entropy_sum, 0);
  }
}

TEST_F(SoftmaxRouterTest, IsMadeByNameWithWeightsOfSeedAndName) {
  const auto weights = [](const std::string& name) {
    const std::unique_ptr<Router> router = make_router(experiment(6, 2, true), name);
    std::vector<Parameter*> parameters;
    router->collect_parameters(parameters);
    EXPECT_EQ(parameters.at(0)->name(), name + ".weight");
    EXPECT_EQ(parameters.at(0)->global_shape(), (Shape{6, D}));
    EXPECT_EQ(parameters.at(0)->sharding(), Sharding::kReplicated);
    return test::copy_of(parameters.at(0)->value());
  };
  EXPECT_EQ(weights("a"), weights("a"));
  EXPECT_NE(weights("a"), weights("b"));
  double squares = 0;
  for (const float value : weights("a")) squares += static_cast<double>(value) * value;
  // n squared standard normals: mean n, variance 2n; five standard errors.
  constexpr double n = 6 * D;
  EXPECT_NEAR(squares / (0.3 * 0.3), n, 5 * std::sqrt(2 * n));
}

TEST_F(SoftmaxRouterTest, InitialWeightsHaveTheRoutersOwnDeviation) {
  const auto weights = [](double init_std) {
    config::Experiment config = experiment(6, 2, true);
    config.mutable_moe()->set_router_init_std(init_std);
    SoftmaxRouter router(config, "a");
    std::vector<Parameter*> parameters;
    router.collect_parameters(parameters);
    return test::copy_of(parameters.at(0)->value());
  };
  EXPECT_EQ(weights(-1), weights(0.3));  // auto is model.init_std
  const std::vector<float> one = weights(1);
  const std::vector<float> four = weights(4);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_EQ(four[i], 4 * one[i]);
  EXPECT_EQ(weights(0), std::vector<float>(6 * D, 0.0F));
}

// All logits tie: the first experts, with equal weights.
TEST_F(SoftmaxRouterTest, ZeroWeightsSendEveryTokenToTheFirstExperts) {
  config::Experiment config = experiment(6, 2, true);
  config.mutable_moe()->set_router_init_std(0);
  SoftmaxRouter router(config, "router");
  const std::vector<float> x = random_values(S * D, "x");
  Context ctx = context(1);
  const Routing routing = router.forward(ctx, tensor_view(std::span<const float>(x), {S, D}), statistics_);
  for (std::size_t choice = 0; choice < 2 * S; ++choice) {
    EXPECT_EQ(routing.experts.values<std::int32_t>()[choice], static_cast<std::int32_t>(choice % 2));
    EXPECT_EQ(routing.weights.values<float>()[choice], 0.5F);
  }
}

// Noise is for training; the experts' tokens are none of the router's business.
TEST_F(SoftmaxRouterTest, EvaluationSeesNoNoise) {
  config::Experiment config = experiment(6, 2, false);
  const std::vector<float> x = random_values(S * D, "x");
  std::vector<std::vector<float>> weights;
  for (const double jitter : {0.0, 0.5})
    for (const bool training : {false, true}) {
      config.mutable_moe()->set_jitter(jitter);
      SoftmaxRouter router(config, "router");
      Context ctx = context(1);
      ctx.training = training;
      const Routing routing =
          router.forward(ctx, tensor_view(std::span<const float>(x), {S, D}), statistics_);
      weights.push_back(test::copy_of(routing.weights));
    }
  EXPECT_EQ(weights[0], weights[1]);
  EXPECT_EQ(weights[0], weights[2]);
  EXPECT_NE(weights[0], weights[3]);
}

// Micro-batches of the same size take nothing from the system after the first.
TEST_F(SoftmaxRouterTest, AllocatesNothingInSteadyState) {
  SoftmaxRouter router(experiment(6, 2, true), "router");
  const std::vector<float> x = random_values(4 * S * D, "x");
  const std::vector<float> dweights = random_values(4 * S * 2, "dweights");
  std::int64_t after_first = 0;
  for (int round = 0; round < 3; ++round) {
    Context ctx = context(4);
    router.forward(ctx, tensor_view(std::span<const float>(x), {4 * S, D}), statistics_);
    router.backward(ctx, tensor_view(std::span(dweights), {4 * S, 2}));
    arena_.reset();
    if (round == 0) after_first = arena_.system_allocations();
  }
  EXPECT_EQ(arena_.system_allocations(), after_first);
}

}  // namespace
}  // namespace conclave
