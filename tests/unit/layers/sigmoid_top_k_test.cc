#include "layers/ops/sigmoid_top_k/sigmoid_top_k.h"

#include <gtest/gtest.h>

#include <set>
#include <span>

#include "tests/support/operator_test.h"
#include "tests/support/reference/sigmoid_top_k.h"

namespace conclave {
namespace {

using test::SigmoidErrors;
using test::SoftmaxErrors;
using test::Values;
using test::view;
using Complex = std::complex<double>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Options {
  std::int64_t E;
  std::int64_t K;
  bool normalize = true;
  float scale = 1;
  GroupLimit groups = {};
};

// The operator's results for logits [T, E].
struct Forward : Options {
  Forward(Values<float> values, Values<float> biases, const Options& options)
      : Options(options),
        logits(std::move(values)),
        bias(std::move(biases)),
        T(static_cast<std::int64_t>(logits.size()) / E),
        probabilities(logits.size(), -1),
        experts(static_cast<std::size_t>(T * K), -1),
        weights(static_cast<std::size_t>(T * K), -1),
        log_sum_exp(static_cast<std::size_t>(T), -1),
        entropy(static_cast<std::size_t>(T), -1) {
    test::LocalContext ctx;
    sigmoid_top_k(ctx, {.logits = view(std::as_const(logits), {T, E}),
                        .bias = view(std::as_const(bias), {E}),
                        .normalize = normalize,
                        .scale = scale,
                        .groups = groups,
                        .probabilities = view(probabilities, {T, E}),
                        .experts = view(experts, {T, K}),
                        .weights = view(weights, {T, K}),
                        .log_sum_exp = view(log_sum_exp, {T}),
                        .entropy = view(entropy, {T})});
  }

  // dprobabilities [G, E], or empty.
  Values<float> backward(const Values<float>& dweights, const Values<float>& dprobabilities,
                         float z_coefficient) const {
    Values<float> dlogits(logits.size(), kInfinity);
    const std::int64_t rows = static_cast<std::int64_t>(dprobabilities.size()) / E;
    test::LocalContext ctx;
    sigmoid_top_k_backward(ctx, {.logits = view(logits, {T, E}),
                                 .probabilities = view(probabilities, {T, E}),
                                 .experts = view(experts, {T, K}),
                                 .weights = view(weights, {T, K}),
                                 .log_sum_exp = view(log_sum_exp, {T}),
                                 .normalize = normalize,
                                 .scale = scale,
                                 .dweights = view(dweights, {T, K}),
                                 .dprobabilities = view(dprobabilities, {rows, E}),
                                 .z_coefficient = z_coefficient,
                                 .dlogits = view(dlogits, {T, E})});
    return dlogits;
  }

  std::vector<double> row(std::int64_t t) const {
    return {logits.begin() + t * E, logits.begin() + (t + 1) * E};
  }
  std::vector<std::int32_t> chosen(std::int64_t t) const {
    return {experts.begin() + t * K, experts.begin() + (t + 1) * K};
  }
  double shift(std::int64_t t) const { return std::min(0.0, std::ranges::max(row(t))); }
  SigmoidErrors errors(std::int64_t t) const {
    double range = 0;
    for (const double logit : row(t)) range = std::max(range, std::abs(shift(t) - logit));
    // The weights are taken relative to the largest of the chosen, which is no further away.
    return {static_cast<double>(E), range};
  }
  SoftmaxErrors softmax_errors(std::int64_t t) const {
    const auto values = row(t);
    const auto [low, high] = std::ranges::minmax(values);
    return {static_cast<double>(E), high - low};
  }

  Values<float> logits;
  Values<float> bias;
  std::int64_t T;
  Values<float> probabilities;
  Values<std::int32_t> experts;
  Values<float> weights;
  Values<float> log_sum_exp;
  Values<float> entropy;
};

template <class Check>
void for_each_case(Check check) {
  struct Logits {
    double scale, offset, bias;
  };
  int number = 0;
  for (const std::int64_t T : {1, 12})
    for (const std::int64_t E : {1, 2, 7, 36})
      for (const std::int64_t K : {std::int64_t{1}, std::int64_t{2}, std::int64_t{5}, E}) {
        if (K > E) continue;
        for (const bool normalize : {false, true})
          // The last would leave nothing of the sigmoid itself beside a bias.
          for (const Logits& values : {Logits{0.1, 0, 0.1}, {3, 0, 0.3}, {2, -40, 0}}) {
            GroupLimit groups;
            if (E == 36 && K < E && number % 2 == 1) groups = {9, 2};
            const Options options{E, K, normalize, number % 3 == 0 ? 1.0F : 2.5F, groups};
            SCOPED_TRACE(fmt::format("T {} E {} K {} normalize {} offset {} scale {} groups {}", T, E, K,
                                     normalize, values.offset, options.scale, groups.groups));
            Values<float> logits = test::random_values(T * E, fmt::format("l{}", ++number), values.scale);
            for (float& logit : logits) logit += static_cast<float>(values.offset);
            check(Forward(logits, test::random_values(E, fmt::format("b{}", number), values.bias), options),
                  number);
          }
      }
}

TEST(SigmoidTopK, MatchesReference) {
  for_each_case([](const Forward& op, int) {
    for (std::int64_t t = 0; t < op.T; ++t) {
      const std::vector<double> logits = op.row(t);
      std::vector<double> biased;
      for (std::size_t e = 0; e < logits.size(); ++e)
        biased.push_back(test::reference_sigmoid(logits[e]) + static_cast<double>(op.bias[e]));
      const auto chosen =
          test::reference_top_k_of_groups(biased, op.K, op.groups.groups, op.groups.top_groups);
      ASSERT_EQ(op.chosen(t), chosen);
      const auto wanted = test::reference_sigmoid_top_k(logits, chosen, op.normalize, op.scale);
      const SigmoidErrors errors = op.errors(t);
      double score_sum = 0;
      double mean_log = 0;
      for (std::size_t e = 0; e < logits.size(); ++e) {
        const double p = wanted.probabilities[e];
        const double score = test::reference_sigmoid(logits[e]) * std::exp(-op.shift(t));
        score_sum += score;
        mean_log += p * std::abs(std::log(score));
        EXPECT_NEAR(op.probabilities[static_cast<std::size_t>(t * op.E) + e], p, p * errors.probability());
      }
      for (std::size_t k = 0; k < chosen.size(); ++k) {
        EXPECT_NEAR(op.weights[static_cast<std::size_t>(t * op.K) + k], wanted.weights[k],
                    wanted.weights[k] * errors.probability());
      }
      EXPECT_NEAR(op.log_sum_exp[static_cast<std::size_t>(t)], wanted.log_sum_exp,
                  op.softmax_errors(t).log_sum_exp(std::ranges::max(logits)));
      EXPECT_NEAR(op.entropy[static_cast<std::size_t>(t)], test::reference_entropy(wanted.probabilities),
                  errors.entropy(mean_log, std::log(score_sum)));
    }
  });
}

TEST(SigmoidTopK, BackwardMatchesComplexStep) {
  constexpr double kStep = 1e-40;
  for_each_case([](const Forward& op, int number) {
    const Values<float> dweights = test::random_values(op.T * op.K, fmt::format("dw{}", number));
    for (const std::int64_t rows : std::set<std::int64_t>{0, 1, op.T % 3 == 0 ? op.T / 3 : 1, op.T}) {
      const Values<float> dprobabilities = test::random_values(rows * op.E, fmt::format("dp{}", number));
      const float z = rows == 1 ? 0.0F : 0.3F;
      const Values<float> dlogits = op.backward(dweights, dprobabilities, z);
      for (std::int64_t t = 0; t < op.T; ++t) {
        const std::vector<double> logits = op.row(t);
        const auto chosen = op.chosen(t);
        const float* dw = dweights.data() + t * op.K;
        const float* dp = rows > 0 ? dprobabilities.data() + t / (op.T / rows) * op.E : nullptr;
        // Every term has a p or w, 1 - s (6 roundings) and a mean; sums over E and K; five more operations.
        const double relative =
            3 * op.errors(t).probability() + SigmoidErrors::unit() * static_cast<double>(op.E + op.K + 6 + 5);
        const double lse_error = op.softmax_errors(t).log_sum_exp(std::ranges::max(logits));
        for (std::size_t e = 0; e < logits.size(); ++e) {
          std::vector<Complex> moved(logits.begin(), logits.end());
          moved[e] += Complex(0, kStep);
          const auto result = test::reference_sigmoid_top_k(moved, chosen, op.normalize, op.scale);
          Complex loss = static_cast<double>(z) * result.log_sum_exp * result.log_sum_exp;
          const double lse = result.log_sum_exp.real();
          const double softmax = std::exp(logits[e] - lse);
          double magnitude = 0;
          double mean_dweight = 0;
          for (std::size_t k = 0; k < chosen.size(); ++k) {
            loss += static_cast<double>(dw[k]) * result.weights[k];
            mean_dweight += std::abs(dw[k]) * result.weights[k].real() / op.scale;
          }
          for (std::size_t k = 0; k < chosen.size(); ++k) {
            if (chosen[k] == static_cast<std::int32_t>(e))
              magnitude += result.weights[k].real() * (std::abs(dw[k]) + mean_dweight);
          }
          if (dp != nullptr) {
            double mean_dprobability = 0;
            for (std::size_t other = 0; other < logits.size(); ++other) {
              loss += static_cast<double>(dp[other]) * result.probabilities[other];
              mean_dprobability += std::abs(dp[other]) * result.probabilities[other].real();
            }
            magnitude += result.probabilities[e].real() * (std::abs(dp[e]) + mean_dprobability);
          }
          magnitude *= 1 - test::reference_sigmoid(logits[e]);
          // exp(l - lse) has the argument's rounding and lse's error; lse comes in once more as a factor.
          const double z_error =
              2 * z * softmax *
              (std::abs(lse) * (SigmoidErrors::unit() * (std::abs(logits[e] - lse) + 8) + lse_error) +
               lse_error);
          EXPECT_NEAR(dlogits[static_cast<std::size_t>(t * op.E) + e], loss.imag() / kStep,
                      magnitude * relative + z_error + 2 * SoftmaxErrors::underflow());
        }
      }
    }
  });
}

TEST(SigmoidTopK, TheBiasMovesTheChoiceAndNotTheWeights) {
  const Values<float> logits{2, 1, 0, -1};
  const Forward plain(logits, {0, 0, 0, 0}, {.E = 4, .K = 2});
  EXPECT_EQ(plain.experts, (std::vector<std::int32_t>{0, 1}));
  const Forward biased(logits, {0, -1, 0, 1}, {.E = 4, .K = 2, .normalize = false});
  EXPECT_EQ(biased.experts, (std::vector<std::int32_t>{3, 0}));
  EXPECT_NEAR(biased.weights[0], test::reference_sigmoid(-1.0), 6 * SigmoidErrors::unit());
  EXPECT_NEAR(biased.weights[1], test::reference_sigmoid(2.0), 6 * SigmoidErrors::unit());
  EXPECT_EQ(biased.probabilities, plain.probabilities);
}

TEST(SigmoidTopK, TiesGoToTheLowerExpertAndGroup) {
  const Values<float> zero(8, 0.0F);
  const Forward equal(Values<float>(8, 1.5F), zero, {.E = 8, .K = 3});
  EXPECT_EQ(equal.experts, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(equal.weights, (Values<float>(3, 1.0F / 3)));
  const Forward grouped(Values<float>(8, 1.5F), zero, {.E = 8, .K = 3, .groups = {4, 2}});
  EXPECT_EQ(grouped.experts, (std::vector<std::int32_t>{0, 1, 2}));
}

// Group 0 has the best expert, group 1 the best pair.
TEST(SigmoidTopK, AGroupIsAsGoodAsItsTwoBest) {
  const Values<float> logits{3, -3, -3, 1, 1, -3};
  const Values<float> zero(6, 0.0F);
  EXPECT_EQ(Forward(logits, zero, {.E = 6, .K = 2, .groups = {2, 1}}).experts,
            (std::vector<std::int32_t>{3, 4}));
  EXPECT_EQ(Forward(logits, zero, {.E = 6, .K = 2, .groups = {2, 2}}).experts,
            (std::vector<std::int32_t>{0, 3}));
  // The bias counts in the group's score too.
  EXPECT_EQ(Forward(logits, {0, 1, 0, 0, 0, 0}, {.E = 6, .K = 2, .groups = {2, 1}}).experts,
            (std::vector<std::int32_t>{1, 0}));
  // Groups of one.
  EXPECT_EQ(Forward(logits, zero, {.E = 6, .K = 2, .groups = {6, 3}}).experts,
            (std::vector<std::int32_t>{0, 3}));
}

// Below exp(-87) no fp32 sigmoid is left; its shares are a softmax of the logits.
TEST(SigmoidTopK, SharesSurviveUnderflow) {
  const Forward op({-200, -201, -202}, {0, 0, 0}, {.E = 3, .K = 3});
  const std::vector<double> shares{0.66524096, 0.24472847, 0.09003057};
  for (std::size_t e = 0; e < 3; ++e) {
    EXPECT_NEAR(op.probabilities[e], shares[e], 1e-6);
    EXPECT_NEAR(op.weights[e], shares[static_cast<std::size_t>(op.experts[e])], 1e-6);
  }
  for (const float value : op.backward({1, 2, 3}, {1, 2, 3}, 0.1F)) EXPECT_TRUE(std::isfinite(value));
}

TEST(SigmoidTopK, MinusInfinityIsNeverPreferred) {
  const Values<float> logits{-kInfinity, 0.0F, -kInfinity, 0.0F};
  const Values<float> bias{5, -5, 5, -5};
  for (const bool normalize : {false, true}) {
    const Forward op(logits, bias, {.E = 4, .K = 3, .normalize = normalize});
    EXPECT_EQ(op.experts, (std::vector<std::int32_t>{1, 3, 0}));
    EXPECT_EQ(op.probabilities, (Values<float>{0, 0.5F, 0, 0.5F}));
    EXPECT_EQ(op.weights, (Values<float>{0.5F, 0.5F, 0}));
    EXPECT_NEAR(op.entropy[0], std::log(2.0), op.errors(0).unit() * 8);
    const Values<float> dlogits = op.backward({2, 5, 7}, {}, 0);
    EXPECT_EQ(dlogits,
              normalize ? (Values<float>{0, -0.375F, 0, 0.375F}) : (Values<float>{0, 0.5F, 0, 1.25F}));
  }
  // A group without a possible expert comes last, and its experts with it.
  const Forward grouped({-kInfinity, -kInfinity, -9, -kInfinity}, {5, 5, 0, 0},
                        {.E = 4, .K = 2, .groups = {2, 1}});
  EXPECT_EQ(grouped.experts, (std::vector<std::int32_t>{2, 3}));
  EXPECT_EQ(grouped.weights, (Values<float>{1, 0}));
}

TEST(SigmoidTopK, DivergedTokensGiveNanAndValidExperts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const GroupLimit& groups : {GroupLimit{}, GroupLimit{3, 2}})
    for (const Values<float>& bad : {Values<float>{nan, 1, 2, 3, 4, 5},
                                     {3, 2, 5, 1, nan, 0},
                                     Values<float>(6, nan),
                                     {0, kInfinity, 0, 0, 0, 0},
                                     Values<float>(6, -kInfinity)}) {
      Values<float> logits = bad;
      logits.insert(logits.end(), {1, 2, 3, 4, 5, 6});  // another token is none the worse
      const Forward op(logits, Values<float>(6, 0.0F), {.E = 6, .K = 3, .groups = groups});
      const std::set<std::int32_t> chosen(op.experts.begin(), op.experts.begin() + 3);
      EXPECT_EQ(chosen.size(), 3U);
      EXPECT_TRUE(*chosen.begin() >= 0 && *chosen.rbegin() < 6);
      for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(std::isnan(op.weights[k]));
      for (std::size_t e = 0; e < 6; ++e) EXPECT_TRUE(std::isnan(op.probabilities[e]));
      EXPECT_FALSE(std::isfinite(op.log_sum_exp[0]));
      EXPECT_FALSE(std::isfinite(op.entropy[0]));
      EXPECT_EQ(op.chosen(1), (std::vector<std::int32_t>{5, 4, 3}));
      EXPECT_TRUE(std::isfinite(op.weights[3]));
    }
}

TEST(SigmoidTopK, TakesZeroTokens) {
  for (const GroupLimit& groups : {GroupLimit{}, GroupLimit{3, 1}}) {
    const Forward op({}, Values<float>(6, 0.0F), {.E = 6, .K = 2, .groups = groups});
    EXPECT_TRUE(op.backward({}, {}, 0.1F).empty());
    EXPECT_TRUE(op.backward({}, {1, 2, 3, 4, 5, 6}, 0.1F).empty());
  }
}

TEST(SigmoidTopK, RefusesWhatCannotBeChosen) {
  const Values<float> six{1, 2, 3, 4, 5, 6};
  EXPECT_THROW(Forward(six, six, {.E = 6, .K = 7}), Error);
  EXPECT_THROW(Forward(six, six, {.E = 6, .K = 0}), Error);
  EXPECT_THROW(Forward(six, {1, 2}, {.E = 6, .K = 1}), Error);
  EXPECT_THROW(Forward(six, six, {.E = 6, .K = 1, .groups = {4, 1}}), Error);  // 4 does not divide 6
  EXPECT_THROW(Forward(six, six, {.E = 6, .K = 1, .groups = {3, 4}}), Error);
  EXPECT_THROW(Forward(six, six, {.E = 6, .K = 3, .groups = {3, 1}}), Error);  // two experts compete
}

}  // namespace
}  // namespace conclave
