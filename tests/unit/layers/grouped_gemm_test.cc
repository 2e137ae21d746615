#include "layers/ops/grouped_gemm/grouped_gemm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/dot_sum.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave::test {
namespace {

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t n = 0;
  std::int64_t k = 0;
  Values<float> x, dy, weights;
  bool accumulate = true;  // the weight gradient

  std::int64_t experts() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t rows() const { return offsets.back(); }
};

Case make_case(std::vector<std::int64_t> offsets, std::int64_t n, std::int64_t k) {
  Case c{.offsets = std::move(offsets), .n = n, .k = k, .x = {}, .dy = {}, .weights = {}};
  c.x = random_values(c.rows() * k, "x");
  c.dy = random_values(c.rows() * n, "dy");
  c.weights = random_values(c.experts() * n * k, "weights");
  return c;
}

struct Results {
  Values<float> y, dx, dweights;
};

constexpr float kInitialGradient = 0.5F;  // what the weight gradient is added to

Results run(const Case& c) {
  LocalContext ctx;
  Results r{Values<float>(c.dy.size(), NAN), Values<float>(c.x.size(), NAN),
            Values<float>(c.weights.size(), c.accumulate ? kInitialGradient : NAN)};
  const auto x = tensor_view(std::span(c.x), {c.rows(), c.k});
  const auto dy = tensor_view(std::span(c.dy), {c.rows(), c.n});
  const Shape weights_shape{c.experts(), c.n, c.k};
  const auto weights = tensor_view(std::span(c.weights), weights_shape);
  grouped_gemm(ctx, {x, weights, c.offsets, tensor_view(std::span(r.y), {c.rows(), c.n})});
  grouped_gemm_input_gradient(ctx, {dy, weights, c.offsets, tensor_view(std::span(r.dx), {c.rows(), c.k})});
  grouped_gemm_weight_gradient(
      ctx, {dy, x, c.offsets, tensor_view(std::span(r.dweights), weights_shape), c.accumulate});
  return r;
}

void expect_near(float actual, const DotSum& sum, const char* what, std::int64_t row, std::int64_t column) {
  ASSERT_TRUE(std::abs(actual - sum.value) <= dot_bound(sum.terms, sum.magnitude))
      << what << " at " << row << ", " << column << ": " << actual << ", expected " << sum.value;
}

void expect_matches_reference(const Case& c) {
  const Results r = run(c);
  const auto at = [](const Values<float>& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
  for (std::int64_t e = 0; e < c.experts(); ++e) {
    const std::int64_t begin = c.offsets[static_cast<std::size_t>(e)];
    const std::int64_t end = c.offsets[static_cast<std::size_t>(e) + 1];
    const std::int64_t w = e * c.n * c.k;
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t n = 0; n < c.n; ++n) {
        DotSum sum;
        for (std::int64_t k = 0; k < c.k; ++k)
          sum.add(at(c.x, row * c.k + k), at(c.weights, w + n * c.k + k));
        expect_near(at(r.y, row * c.n + n), sum, "y", row, n);
      }
      for (std::int64_t k = 0; k < c.k; ++k) {
        DotSum sum;
        for (std::int64_t n = 0; n < c.n; ++n)
          sum.add(at(c.dy, row * c.n + n), at(c.weights, w + n * c.k + k));
        expect_near(at(r.dx, row * c.k + k), sum, "dx", row, k);
      }
    }
    for (std::int64_t n = 0; n < c.n; ++n) {
      for (std::int64_t k = 0; k < c.k; ++k) {
        DotSum sum;
        if (c.accumulate) sum.add(kInitialGradient, 1);
        for (std::int64_t row = begin; row < end; ++row) {
          sum.add(at(c.dy, row * c.n + n), at(c.x, row * c.k + k));
        }
        expect_near(at(r.dweights, w + n * c.k + k), sum, "dweights", n, k);
      }
    }
  }
}

TEST(GroupedGemmTest, UnevenExperts) { expect_matches_reference(make_case({0, 3, 3, 20, 21, 40}, 13, 7)); }
TEST(GroupedGemmTest, OneExpertTakesAll) { expect_matches_reference(make_case({0, 0, 33, 33}, 17, 31)); }
TEST(GroupedGemmTest, NoRows) { expect_matches_reference(make_case({0, 0, 0}, 5, 3)); }
TEST(GroupedGemmTest, NoExperts) { expect_matches_reference(make_case({0}, 5, 3)); }
TEST(GroupedGemmTest, NoOutputs) { expect_matches_reference(make_case({0, 2, 5}, 0, 3)); }
TEST(GroupedGemmTest, NoInputs) { expect_matches_reference(make_case({0, 2, 5}, 4, 0)); }
TEST(GroupedGemmTest, OneRowEach) { expect_matches_reference(make_case({0, 1, 2, 3, 4, 5, 6, 7, 8}, 1, 1)); }
TEST(GroupedGemmTest, MoreRowsThanABlock) {
  expect_matches_reference(make_case({0, 300, 813, 814}, 270, 11));
}

TEST(GroupedGemmTest, BitsDoNotDependOnTheNumberOfThreads) {
  const Case c = make_case({0, 300, 300, 900, 931}, 300, 65);
  const auto run_on = [&](int threads) {
    const ThreadCount scope(threads);
    return run(c);
  };
  const Results one = run_on(1);
  const Results three = run_on(3);
  EXPECT_EQ(one.y, three.y);
  EXPECT_EQ(one.dx, three.dx);
  EXPECT_EQ(one.dweights, three.dweights);
}

TEST(GroupedGemmTest, AssignsGradients) {
  Case c = make_case({0, 0, 300, 300}, 270, 11);
  c.accumulate = false;
  expect_matches_reference(c);
}

TEST(GroupedGemmTest, RefusesOffsetsThatDoNotFit) {
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{0, 5}, {1, 3, 5}, {0, 3, 4}, {0, 6, 5}}) {
    Case c = make_case({0, 3, 5}, 4, 3);
    Values<float> y(20);
    LocalContext ctx;
    EXPECT_THROW(grouped_gemm(ctx, {tensor_view(std::span<const float>(c.x), {5, 3}),
                                    tensor_view(std::span<const float>(c.weights), {2, 4, 3}), offsets,
                                    tensor_view(std::span(y), {5, 4})}),
                 Error);
  }
}

}  // namespace
}  // namespace conclave::test
