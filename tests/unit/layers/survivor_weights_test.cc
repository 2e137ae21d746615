#include "layers/moe/survivor_weights.h"

#include <gtest/gtest.h>

#include "layers/moe/dispatch_plan.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

constexpr std::int32_t kDropped = DispatchPlan::kDropped;
using test::view;

// scale * w / (sum of w that are left), [T, K].
template <class T>
std::vector<T> reference_survivors(const std::vector<T>& w, const std::vector<std::int32_t>& rows,
                                   std::size_t top_k, double scale) {
  std::vector<T> v(w.size(), T(0));
  for (std::size_t first = 0; first < w.size(); first += top_k) {
    T sum = 0;
    for (std::size_t k = 0; k < top_k; ++k) sum += rows[first + k] == kDropped ? T(0) : w[first + k];
    for (std::size_t k = 0; k < top_k; ++k)
      if (rows[first + k] != kDropped) v[first + k] = scale * w[first + k] / sum;
  }
  return v;
}

TEST(SurvivorWeightsTest, MatchesReferenceForwardAndBackward) {
  for (const std::size_t K : {1U, 2U, 3U})
    for (const double scale : {1.0, 2.5}) {
      constexpr std::size_t T = 20;
      const auto shape = Shape{T, static_cast<std::int64_t>(K)};
      std::vector<float> w = test::random_values(shape.elements(), "w");
      for (float& weight : w) weight = std::abs(weight) + 0.1F;
      std::vector<std::int32_t> rows = test::random_tokens(shape.elements(), "rows", 3);
      for (std::int32_t& row : rows) row = row == 0 ? kDropped : row;  // a third is dropped
      for (std::size_t k = 0; k < K; ++k) rows[K + k] = kDropped;      // all of token 1
      const std::vector<float> dv = test::random_values(shape.elements(), "dv");

      test::LocalContext ctx;
      const SurvivorWeightsArgs args{.weights = view(std::as_const(w), shape),
                                     .row_of_choice = rows,
                                     .scale = static_cast<float>(scale)};
      std::vector<float> v(w.size(), 9);
      survivor_weights(ctx, args, view(v, shape));
      std::vector<float> dw = dv;
      survivor_weights_backward(ctx, args, view(std::as_const(dw), shape), view(dw, shape));

      const auto expected = reference_survivors(test::promoted<double>(w), rows, K, scale);
      const auto gradient = test::complex_step_gradient(
          [&](const auto& point) {
            return test::weighted_sum(reference_survivors(point, rows, K, scale), dv);
          },
          w);
      for (std::size_t i = 0; i < w.size(); ++i) {
        EXPECT_NEAR(v[i], expected[i], test::dot_bound(static_cast<double>(K), expected[i])) << i;
        // scale / sum * (dv - mean): the sum is at least w, and |mean| at most the largest |dv|.
        double magnitude = 0;
        for (std::size_t k = 0; k < K; ++k) magnitude += 2 * std::abs(dv[i / K * K + k]);
        EXPECT_NEAR(dw[i], gradient[i],
                    test::dot_bound(3 * static_cast<double>(K) + 4, scale / w[i] * magnitude));
      }
    }
}

TEST(SurvivorWeightsTest, WeightsThatSumToZeroStay) {
  test::LocalContext ctx;
  const std::vector<float> w(2, 0);
  const std::vector<std::int32_t> rows = {0, 1};
  const SurvivorWeightsArgs args{.weights = view(w, {1, 2}), .row_of_choice = rows};
  std::vector<float> v(2, 9);
  survivor_weights(ctx, args, view(v, {1, 2}));
  EXPECT_EQ(v, w);
  survivor_weights_backward(ctx, args, view(w, {1, 2}), view(v, {1, 2}));
  EXPECT_EQ(v, w);
}

TEST(SurvivorWeightsTest, TakesZeroTokens) {
  test::LocalContext ctx;
  std::vector<float> none;
  const std::vector<std::int32_t> no_choices;
  const SurvivorWeightsArgs args{.weights = view(none, {0, 2}), .row_of_choice = no_choices};
  EXPECT_NO_THROW(survivor_weights(ctx, args, view(none, {0, 2})));
}

}  // namespace
}  // namespace conclave
