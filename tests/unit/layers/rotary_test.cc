#include "layers/ops/rotary/rotary.h"

#include "tests/support/operator_test.h"
#include "tests/support/reference/rotary.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

constexpr double kTheta = 1e4;
constexpr std::int64_t kMaxSeq = 40;

struct Case {
  std::int64_t sequences, sequence_length, heads, head_dim, first_position;
};

class RotaryTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Sizes, RotaryTest,
                         testing::Values(Case{0, 3, 2, 4, 0}, Case{2, 5, 3, 6, 0}, Case{1, 40, 1, 2, 0},
                                         Case{3, 1, 2, 34, 39}, Case{1, 7, 1, 64, 5}));

// Two products, each of a rounded cosine or sine.
std::vector<double> bounds(const Values<float>& x, std::size_t head_dim) {
  std::vector<double> bound(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t partner = i % head_dim < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2;
    bound[i] = dot_bound(2, std::abs(x[i]) + std::abs(x[partner]), 2);
  }
  return bound;
}

TEST_P(RotaryTest, MatchesTheReference) {
  const auto [sequences, length, heads, head_dim, first] = GetParam();
  const RotaryTable table(kMaxSeq, head_dim, kTheta);
  const Shape shape{sequences * length, heads, head_dim};
  const auto rotated = [&](const auto& x) {
    return reference::rotary(x, static_cast<std::size_t>(heads), static_cast<std::size_t>(head_dim), kTheta,
                             static_cast<std::size_t>(length), static_cast<std::size_t>(first));
  };
  LocalContext ctx;

  const auto x = random_values(shape.elements(), "x");
  auto y = x;
  rotary(ctx, {view(y, shape), &table, length, first});
  expect_within(y, rotated(promoted<double>(x)), bounds(x, static_cast<std::size_t>(head_dim)), "y");

  const auto dy = random_values(shape.elements(), "dy");
  auto dx = dy;
  rotary_backward(ctx, {view(dx, shape), &table, length, first});
  const auto loss = [&](const std::vector<Complex>& at) { return weighted_sum(rotated(at), dy); };
  expect_within(dx, complex_step_gradient(loss, x), bounds(dy, static_cast<std::size_t>(head_dim)), "dx");
}

TEST(Rotary, ScoresDependOnTheDistanceOnly) {
  constexpr std::int64_t kHeadDim = 8;
  const RotaryTable table(kMaxSeq, kHeadDim, kTheta);
  LocalContext ctx;
  const auto score = [&](std::int64_t query_position, std::int64_t key_position) {
    auto query = random_values(kHeadDim, "query");
    auto key = random_values(kHeadDim, "key");
    rotary(ctx, {view(query, {1, 1, kHeadDim}), &table, 1, query_position});
    rotary(ctx, {view(key, {1, 1, kHeadDim}), &table, 1, key_position});
    double sum = 0;
    for (std::size_t i = 0; i < query.size(); ++i) sum += static_cast<double>(query[i]) * key[i];
    return sum;
  };
  double magnitude = 0;  // of a dot product of vectors of these lengths
  const auto query = random_values(kHeadDim, "query");
  const auto key = random_values(kHeadDim, "key");
  for (std::size_t i = 0; i < query.size(); ++i) magnitude += query[i] * query[i] + key[i] * key[i];
  EXPECT_NEAR(score(12, 3), score(29, 20), 2 * dot_bound(2, magnitude, 8));
  EXPECT_GT(std::abs(score(12, 3) - score(12, 4)), 2 * dot_bound(2, magnitude, 8));
}

TEST(Rotary, RefusesWhatTheTableDoesNotHold) {
  EXPECT_THROW(RotaryTable(4, 5, kTheta), Error);
  const RotaryTable table(4, 2, kTheta);
  LocalContext ctx;
  Values<float> x(8);
  EXPECT_THROW(rotary(ctx, {view(x, {4, 1, 2}), &table, 4, 1}), Error);   // position 4
  EXPECT_THROW(rotary(ctx, {view(x, {4, 1, 2}), &table, 3, 0}), Error);   // a broken sequence
  EXPECT_THROW(rotary(ctx, {view(x, {2, 1, 4}), &table, 2, 0}), Error);   // head_dim 4
  EXPECT_THROW(rotary(ctx, {view(x, {4, 1, 2}), nullptr, 4, 0}), Error);  // no table
  EXPECT_NO_THROW(rotary(ctx, {view(x, {4, 1, 2}), &table, 2, 2}));
}

}  // namespace
}  // namespace conclave
