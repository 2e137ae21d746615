#include "layers/moe/router/input_jitter.h"

#include <gtest/gtest.h>

#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using test::copy_of;
using test::view;

constexpr std::int64_t D = 7;  // no multiple of what one index of the stream gives
constexpr std::int64_t S = 3;
constexpr double kJitter = 0.25;
constexpr double kUnit = 0.5 * std::numeric_limits<float>::epsilon();

config::Experiment experiment(double jitter = kJitter) {
  config::Experiment result;
  result.mutable_run()->set_seed(11);
  result.mutable_moe()->set_jitter(jitter);
  return result;
}

// Sequences [first, first + count) of 4 of a step.
BatchPosition position(std::int64_t first, std::int64_t count, std::int64_t step = 2) {
  BatchPosition batch;
  batch.step = step;
  batch.first_sequence = first;
  batch.sequences = count;
  batch.sequence_length = S;
  batch.global_sequences = 4;
  return batch;
}

// The noise itself: what becomes of ones.
std::vector<float> factors(const BatchPosition& batch, const std::string& router = "router",
                           double jitter = kJitter) {
  test::LocalContext ctx;
  ctx.batch = batch;
  const std::vector<float> ones(static_cast<std::size_t>(batch.tokens() * D), 1.0F);
  return copy_of(InputJitter(experiment(jitter), router).forward(ctx, view(ones, {batch.tokens(), D})));
}

// By its definition, element by element.
TEST(InputJitter, MatchesReference) {
  const RandomStream random(11, "layers.1.moe.router/jitter", 2);
  const std::vector<float> actual = factors(position(1, 2), "layers.1.moe.router");
  for (std::uint64_t t = 0; t < 2 * S; ++t) {
    const std::uint64_t token = (2 * 4 + 1) * S + t;
    for (std::uint64_t d = 0; d < D; ++d) {
      const std::uint64_t index = token * 2 + d / 4;
      const double u = random.uniform4(index)[d % 4];
      // Three roundings of numbers up to 1 + jitter.
      EXPECT_NEAR(actual[t * D + d], 1 - kJitter + 2 * kJitter * u, 3 * (1 + kJitter) * kUnit);
    }
  }
}

TEST(InputJitter, CoversItsRangeEvenly) {
  BatchPosition batch = position(0, 4);
  batch.sequence_length = 500;
  const std::vector<float> values = factors(batch);
  double sum = 0;
  for (const float value : values) {
    ASSERT_GE(value, 1 - kJitter);
    ASSERT_LE(value, 1 + kJitter);
    sum += value - 1;
  }
  // A uniform number's variance is width^2 / 12; five standard errors of the sum.
  const auto n = static_cast<double>(values.size());
  EXPECT_LT(std::abs(sum), 5 * 2 * kJitter * std::sqrt(n / 12));
  EXPECT_LT(std::ranges::min(values), 1 - 0.99 * kJitter);
  EXPECT_GT(std::ranges::max(values), 1 + 0.99 * kJitter);
}

TEST(InputJitter, IsTheSameHoweverAStepIsCut) {
  const std::vector<float> whole = factors(position(0, 4));
  for (const std::int64_t part : {1, 2}) {
    std::vector<float> pieces;
    for (std::int64_t first = 0; first < 4; first += part) {
      const std::vector<float> piece = factors(position(first, part));
      pieces.insert(pieces.end(), piece.begin(), piece.end());
    }
    EXPECT_EQ(pieces, whole) << part;
  }
}

TEST(InputJitter, DiffersByRouterAndStep) {
  EXPECT_NE(factors(position(0, 1)), factors(position(0, 1), "another"));
  EXPECT_NE(factors(position(0, 1)), factors(position(0, 1, 3)));
}

TEST(InputJitter, BackwardAppliesTheSameFactor) {
  test::LocalContext ctx;
  ctx.batch = position(1, 3);
  const InputJitter jitter(experiment(), "router");
  const std::vector<float> values = test::random_values(3 * S * D, "values");
  std::vector<float> gradient = values;
  jitter.backward(ctx, view(gradient, {3 * S, D}));
  EXPECT_EQ(gradient, copy_of(jitter.forward(ctx, view(values, {3 * S, D}))));
  EXPECT_NE(gradient, values);
}

TEST(InputJitter, IsOffInEvaluationAndAtZero) {
  test::LocalContext ctx;
  ctx.batch = position(0, 1);
  std::vector<float> values = test::random_values(S * D, "values");
  const std::vector<float> before = values;
  const InputJitter off(experiment(0), "router");
  EXPECT_EQ(off.forward(ctx, view(values, {S, D})).raw(), values.data());
  off.backward(ctx, view(values, {S, D}));
  EXPECT_EQ(values, before);
  ctx.training = false;
  EXPECT_EQ(InputJitter(experiment(), "router").forward(ctx, view(values, {S, D})).raw(), values.data());
}

TEST(InputJitter, TakesZeroTokens) { EXPECT_TRUE(factors(position(4, 0)).empty()); }

}  // namespace
}  // namespace conclave
