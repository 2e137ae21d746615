#include "layers/ops/softmax_top_k/softmax_top_k.h"

#include <gtest/gtest.h>

#include <set>
#include <span>

#include "layers/tensor/philox.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/sigmoid_top_k.h"
#include "tests/support/reference/softmax_top_k.h"

namespace conclave {
namespace {

using test::SoftmaxErrors;
using test::Values;
using Complex = std::complex<double>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Values<float> random_values(std::uint64_t seed, std::int64_t count, double scale) {
  const RandomStream random(seed, "values");
  Values<float> values;
  for (std::int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<float>(scale) * random.normal(static_cast<std::uint64_t>(i)));
  return values;
}

// The operator's results for logits [T, E].
struct Forward {
  Forward(Values<float> values, std::int64_t expert_count, std::int64_t k, bool normalized, float factor = 1,
          const GroupLimit& limit = {})
      : logits(std::move(values)),
        E(expert_count),
        K(k),
        T(static_cast<std::int64_t>(logits.size()) / E),
        normalize(normalized),
        scale(factor),
        groups(limit),
        probabilities(logits.size(), -1),
        experts(static_cast<std::size_t>(T * K), -1),
        weights(static_cast<std::size_t>(T * K), -1),
        log_sum_exp(static_cast<std::size_t>(T), -1),
        entropy(static_cast<std::size_t>(T), -1) {
    test::LocalContext ctx;
    softmax_top_k(ctx, {.logits = tensor_view(std::span<const float>(logits), {T, E}),
                        .normalize = normalize,
                        .scale = scale,
                        .groups = groups,
                        .probabilities = tensor_view(std::span(probabilities), {T, E}),
                        .experts = tensor_view(std::span(experts), {T, K}),
                        .weights = tensor_view(std::span(weights), {T, K}),
                        .log_sum_exp = tensor_view(std::span(log_sum_exp), {T}),
                        .entropy = tensor_view(std::span(entropy), {T})});
  }

  // dprobabilities [G, E], or empty.
  Values<float> backward(const Values<float>& dweights, const Values<float>& dprobabilities,
                         float z_coefficient) const {
    Values<float> dlogits(logits.size(), kInfinity);
    const std::int64_t rows = static_cast<std::int64_t>(dprobabilities.size()) / E;
    test::LocalContext ctx;
    softmax_top_k_backward(ctx, {.probabilities = tensor_view(std::span(probabilities), {T, E}),
                                 .experts = tensor_view(std::span(experts), {T, K}),
                                 .weights = tensor_view(std::span(weights), {T, K}),
                                 .log_sum_exp = tensor_view(std::span(log_sum_exp), {T}),
                                 .normalize = normalize,
                                 .scale = scale,
                                 .dweights = tensor_view(std::span(dweights), {T, K}),
                                 .dprobabilities = tensor_view(std::span(dprobabilities), {rows, E}),
                                 .z_coefficient = z_coefficient,
                                 .dlogits = tensor_view(std::span(dlogits), {T, E})});
    return dlogits;
  }

  std::vector<double> row(std::int64_t t) const {
    return {logits.begin() + t * E, logits.begin() + (t + 1) * E};
  }
  std::vector<std::int32_t> chosen(std::int64_t t) const {
    return {experts.begin() + t * K, experts.begin() + (t + 1) * K};
  }
  SoftmaxErrors errors(std::int64_t t) const {
    const auto [low, high] = std::ranges::minmax(row(t));
    return {static_cast<double>(E), high - low};
  }

  Values<float> logits;
  std::int64_t E;
  std::int64_t K;
  std::int64_t T;
  bool normalize;
  float scale;
  GroupLimit groups;
  Values<float> probabilities;
  Values<std::int32_t> experts;
  Values<float> weights;
  Values<float> log_sum_exp;
  Values<float> entropy;
};

template <class Check>
void for_each_case(Check check) {
  std::uint64_t seed = 0;
  for (const std::int64_t T : {1, 12})
    for (const std::int64_t E : {1, 2, 7, 33})
      for (const std::int64_t K : {std::int64_t{1}, std::int64_t{2}, std::int64_t{5}, E}) {
        if (K > E) continue;
        for (const bool normalize : {false, true})
          for (const double scale : {0.1, 3.0, 20.0}) {
            SCOPED_TRACE(fmt::format("T {} E {} K {} normalize {} scale {}", T, E, K, normalize, scale));
            ++seed;
            // 12 of 33 experts compete in every other case.
            const GroupLimit groups = E == 33 && K < E && seed % 2 == 0 ? GroupLimit{11, 4} : GroupLimit{};
            check(Forward(random_values(seed, T * E, scale), E, K, normalize, seed % 3 == 0 ? 1.0F : 2.5F,
                          groups),
                  seed);
          }
      }
}

TEST(SoftmaxTopK, MatchesReference) {
  for_each_case([](const Forward& op, std::uint64_t) {
    for (std::int64_t t = 0; t < op.T; ++t) {
      const std::vector<double> logits = op.row(t);
      std::vector<double> exponentials;
      for (const double logit : logits) exponentials.push_back(std::exp(logit));
      const auto chosen =
          test::reference_top_k_of_groups(exponentials, op.K, op.groups.groups, op.groups.top_groups);
      ASSERT_EQ(op.chosen(t), chosen);
      const auto wanted = test::reference_softmax_top_k(logits, chosen, op.normalize);
      const SoftmaxErrors errors = op.errors(t);
      const double largest = std::ranges::max(logits);
      double mean_shift = 0;
      for (std::size_t e = 0; e < logits.size(); ++e) {
        const double p = wanted.probabilities[e];
        mean_shift += p * (largest - logits[e]);
        EXPECT_NEAR(op.probabilities[static_cast<std::size_t>(t * op.E) + e], p,
                    p * errors.probability() + SoftmaxErrors::underflow());
      }
      for (std::size_t k = 0; k < chosen.size(); ++k) {
        const double weight = op.scale * wanted.weights[k];
        EXPECT_NEAR(
            op.weights[static_cast<std::size_t>(t * op.K) + k], weight,
            weight * (errors.probability() + SoftmaxErrors::unit()) + op.scale * SoftmaxErrors::underflow());
      }
      EXPECT_NEAR(op.log_sum_exp[static_cast<std::size_t>(t)], wanted.log_sum_exp,
                  errors.log_sum_exp(largest));
      EXPECT_NEAR(op.entropy[static_cast<std::size_t>(t)], test::reference_entropy(wanted.probabilities),
                  errors.entropy(mean_shift));
    }
  });
}

// The derivative of  dweights w + dprobabilities p + z lse^2  in each logit of one token by
// the complex step, and the magnitude of the terms that cancel in it: with their p and w,
// and of what p and w are multiplied by.
struct LogitGradient {
  std::vector<double> value;
  std::vector<double> magnitude;
  std::vector<double> coefficient;
};

LogitGradient reference_gradient(const std::vector<double>& logits, const std::vector<std::int32_t>& chosen,
                                 bool normalize, double scale, std::span<const float> dweights,
                                 std::span<const float> dprobabilities, double z) {
  constexpr double kStep = 1e-40;
  LogitGradient gradient;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    std::vector<Complex> moved(logits.begin(), logits.end());
    moved[e] += Complex(0, kStep);
    const auto result = test::reference_softmax_top_k(moved, chosen, normalize);
    Complex loss = z * result.log_sum_exp * result.log_sum_exp;
    double mean_dweight = 0;
    double mean_dprobability = 0;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      loss += scale * static_cast<double>(dweights[k]) * result.weights[k];
      mean_dweight += scale * std::abs(dweights[k]) * result.weights[k].real();
    }
    for (std::size_t other = 0; other < dprobabilities.size(); ++other) {
      loss += static_cast<double>(dprobabilities[other]) * result.probabilities[other];
      mean_dprobability += std::abs(dprobabilities[other]) * result.probabilities[other].real();
    }
    gradient.value.push_back(loss.imag() / kStep);

    const double own = dprobabilities.empty() ? 0 : std::abs(dprobabilities[e]);
    double coefficient = own + mean_dprobability + mean_dweight + std::abs(2 * z * result.log_sum_exp.real());
    double magnitude = result.probabilities[e].real() * coefficient;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      if (chosen[k] != static_cast<std::int32_t>(e)) continue;
      magnitude += result.weights[k].real() * (scale * std::abs(dweights[k]) + mean_dweight);
      coefficient += scale * std::abs(dweights[k]) + mean_dweight;
    }
    gradient.coefficient.push_back(coefficient);
    gradient.magnitude.push_back(magnitude);
  }
  return gradient;
}

TEST(SoftmaxTopK, BackwardMatchesComplexStep) {
  for_each_case([](const Forward& op, std::uint64_t seed) {
    const Values<float> dweights = random_values(seed + 1000, op.T * op.K, 1.0);
    for (const std::int64_t groups : std::set<std::int64_t>{0, 1, op.T % 3 == 0 ? op.T / 3 : 1, op.T}) {
      const Values<float> dprobabilities = random_values(seed + 2000, groups * op.E, 1.0);
      const float z = groups == 1 ? 0.0F : 0.3F;
      const Values<float> dlogits = op.backward(dweights, dprobabilities, z);
      for (std::int64_t t = 0; t < op.T; ++t) {
        std::span<const float> dprobability;
        if (groups > 0) {
          const std::int64_t row = t / (op.T / groups);
          dprobability = std::span(dprobabilities)
                             .subspan(static_cast<std::size_t>(row * op.E), static_cast<std::size_t>(op.E));
        }
        const auto dweight =
            std::span(dweights).subspan(static_cast<std::size_t>(t * op.K), static_cast<std::size_t>(op.K));
        const LogitGradient wanted =
            reference_gradient(op.row(t), op.chosen(t), op.normalize, op.scale, dweight, dprobability, z);
        // A term holds up to three of p and w; sums over E and K, and seven more operations. log_sum_exp has
        // an absolute error.
        const SoftmaxErrors errors = op.errors(t);
        const double relative =
            3 * errors.probability() + SoftmaxErrors::unit() * static_cast<double>(op.E + op.K + 7);
        const double largest = std::ranges::max(op.row(t));
        for (std::size_t e = 0; e < wanted.value.size(); ++e) {
          const std::size_t at = static_cast<std::size_t>(t * op.E) + e;
          EXPECT_NEAR(dlogits[at], wanted.value[e],
                      wanted.magnitude[e] * relative +
                          2 * z * op.probabilities[at] * errors.log_sum_exp(largest) +
                          (wanted.coefficient[e] + 2) * SoftmaxErrors::underflow());
        }
      }
    }
  });
}

// Powers of two round nothing: all that a scale does is multiply the weights and their gradients.
TEST(SoftmaxTopK, TheScaleMultipliesWeightsAndTheirGradients) {
  for (const bool normalize : {false, true}) {
    const Values<float> logits = random_values(1, 5 * 7, 2);
    const Forward plain(logits, 7, 3, normalize);
    const Forward scaled(logits, 7, 3, normalize, 4);
    EXPECT_EQ(scaled.probabilities, plain.probabilities);
    EXPECT_EQ(scaled.experts, plain.experts);
    const auto times_four = [](Values<float> values) {
      for (float& value : values) value *= 4;
      return values;
    };
    EXPECT_EQ(scaled.weights, times_four(plain.weights));
    const Values<float> dweights = random_values(2, 5 * 3, 1);
    EXPECT_EQ(scaled.backward(dweights, {}, 0), times_four(plain.backward(dweights, {}, 0)));
    // Without a scale a weight that isn't normalised is the probability itself, to the last bit.
    for (std::size_t i = 0; !normalize && i < plain.weights.size(); ++i) {
      EXPECT_EQ(plain.weights[i],
                plain.probabilities[i / 3 * 7 + static_cast<std::size_t>(plain.experts[i])]);
    }
  }
}

// Group 0 has the most probable expert, group 1 the most probable pair.
TEST(SoftmaxTopK, AGroupIsAsGoodAsItsTwoBest) {
  const Values<float> logits{3, -3, -3, 2.5F, 2.5F, -3};
  const auto chosen = [](const Values<float>& values, std::int64_t groups, std::int64_t top_groups) {
    return Forward(values, 6, 2, true, 1, {groups, top_groups}).experts;
  };
  EXPECT_EQ(chosen(logits, 2, 1), (std::vector<std::int32_t>{3, 4}));
  EXPECT_EQ(chosen(logits, 2, 2), (std::vector<std::int32_t>{0, 3}));
  EXPECT_EQ(chosen(logits, 6, 3), (std::vector<std::int32_t>{0, 3}));
  EXPECT_EQ(chosen(Values<float>(6, 1.0F), 3, 1), (std::vector<std::int32_t>{0, 1}));
  // The same where no fp32 probability is left, and where a group has no possible expert.
  EXPECT_EQ(chosen({-300, -300, 0, 0, -301, -301}, 3, 2), (std::vector<std::int32_t>{2, 3}));
  EXPECT_EQ(Forward({-300, -300, 0, 0, -301, -301}, 6, 4, true, 1, {3, 2}).experts,
            (std::vector<std::int32_t>{2, 3, 0, 1}));
  EXPECT_EQ(chosen({-kInfinity, -kInfinity, -kInfinity, -kInfinity, -9, -kInfinity}, 3, 1),
            (std::vector<std::int32_t>{4, 5}));
}

TEST(SoftmaxTopK, TiesGoToTheLowerExpert) {
  const Forward equal(Values<float>(9, -3.5F), 9, 4, true);
  EXPECT_EQ(equal.experts, (std::vector<std::int32_t>{0, 1, 2, 3}));
  for (const float weight : equal.weights) EXPECT_EQ(weight, 0.25F);
  EXPECT_NEAR(equal.entropy[0], std::log(9.0), equal.errors(0).entropy(0));

  const Forward many(std::vector<float>(70, 1.0F), 70, 40, true);  // more than a GPU's warp has lanes
  for (std::size_t k = 0; k < 40; ++k) EXPECT_EQ(many.experts[k], static_cast<std::int32_t>(k));

  const Forward some({1, 2, 1, 2, 0, 2}, 6, 5, false);
  EXPECT_EQ(some.experts, (std::vector<std::int32_t>{1, 3, 5, 0, 2}));
}

// Both probabilities are zero in fp32; the logits still tell which is larger.
TEST(SoftmaxTopK, OrdersProbabilitiesThatUnderflow) {
  const Forward op({-300, 0, -200}, 3, 3, true);
  EXPECT_EQ(op.experts, (std::vector<std::int32_t>{1, 2, 0}));
  EXPECT_EQ(op.weights, (Values<float>{1, 0, 0}));
}

TEST(SoftmaxTopK, MinusInfinityIsNeverPreferred) {
  const Values<float> logits{-kInfinity, 1.0F, -kInfinity, 1.0F};
  for (const bool normalize : {false, true}) {
    const Forward op(logits, 4, 3, normalize);
    EXPECT_EQ(op.experts, (std::vector<std::int32_t>{1, 3, 0}));
    EXPECT_EQ(op.probabilities, (Values<float>{0, 0.5F, 0, 0.5F}));
    EXPECT_EQ(op.weights, (Values<float>{0.5F, 0.5F, 0}));
    EXPECT_NEAR(op.log_sum_exp[0], 1 + std::log(2.0), SoftmaxErrors(4, 0).log_sum_exp(1));
    EXPECT_NEAR(op.entropy[0], std::log(2.0), SoftmaxErrors(4, 0).entropy(0));

    // d = p (g - p.g): g is 2 and 5 more than elsewhere on the two that matter.
    const Values<float> dlogits = op.backward({2, 5, 7}, {}, 0);
    EXPECT_EQ(dlogits, (Values<float>{0, -0.75F, 0, 0.75F}));
  }
}

TEST(SoftmaxTopK, DivergedTokensGiveNanAndValidExperts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Values<float>& bad : {Values<float>{nan, 1, 2, 3},
                                   {3, 2, nan, 1},
                                   {nan, nan, nan, nan},
                                   {0, kInfinity, 0, 0},
                                   {-kInfinity, -kInfinity, -kInfinity, -kInfinity}}) {
    Values<float> logits = bad;
    logits.insert(logits.end(), {1, 2, 3, 4});  // another token is none the worse
    const Forward op(logits, 4, 3, true);
    const std::set<std::int32_t> chosen(op.experts.begin(), op.experts.begin() + 3);
    EXPECT_EQ(chosen.size(), 3U);
    EXPECT_TRUE(*chosen.begin() >= 0 && *chosen.rbegin() < 4);
    for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(std::isnan(op.weights[k]));
    EXPECT_FALSE(std::isfinite(op.log_sum_exp[0]));
    EXPECT_EQ(op.chosen(1), (std::vector<std::int32_t>{3, 2, 1}));
    EXPECT_TRUE(std::isfinite(op.weights[3]));
  }
}

TEST(SoftmaxTopK, TakesZeroTokens) {
  const Forward op({}, 5, 2, true);
  EXPECT_TRUE(op.backward({}, {}, 0.1F).empty());
  EXPECT_TRUE(op.backward({}, {1, 2, 3, 4, 5}, 0.1F).empty());
}

TEST(SoftmaxTopK, RefusesShapesThatDoNotFit) {
  EXPECT_THROW(Forward({1, 2}, 2, 3, true), Error);
  EXPECT_THROW(Forward({1, 2}, 2, 0, true), Error);
  EXPECT_THROW(Forward({1, 2}, 2, 2, true, 1, {2, 1}), Error);  // one expert competes
  EXPECT_THROW(Forward({1, 2}, 2, 1, true, -1), Error);
  const Forward op({1, 2, 3, 4, 5, 6}, 2, 1, true);
  EXPECT_THROW(op.backward({1, 1, 1}, {1, 1, 1, 1}, 0), Error);  // 2 rows for 3 tokens
}

}  // namespace
}  // namespace conclave
