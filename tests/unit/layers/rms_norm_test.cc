#include "layers/norm/rms_norm.h"

#include "layers/ops/rms_norm/rms_norm.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/rms_norm.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

constexpr double kEps = 1e-3;  // large enough to be seen in fp32

struct Case {
  std::int64_t rows;
  std::int64_t width;
};

class RmsNormTest : public testing::TestWithParam<Case> {
 protected:
  std::int64_t rows = GetParam().rows;
  std::int64_t width = GetParam().width;
  Shape shape{rows, width};
  Values<float> x = random_values(rows * width, "x");
  Values<float> delta = random_values(rows * width, "delta");
  Values<float> weight = random_values(width, "weight");
  Values<float> dy = random_values(rows * width, "dy");
  Values<float> dresidual = random_values(rows * width, "dresidual");
  Values<float> y = Values<float>(x.size());
  Values<float> rstd = Values<float>(static_cast<std::size_t>(rows));
  LocalContext ctx;

  // x + delta, rounded as the operator rounds it.
  Values<float> residual_sum() const {
    Values<float> sum = x;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += delta[i];
    return sum;
  }

  // The sum of squares has a relative error of gamma_D, halved by the root; then four roundings.
  void expect_forward(const Values<float>& input) {
    const auto expected = reference::rms_norm(promoted<double>(input), promoted<double>(weight), kEps);
    std::vector<double> bound;
    for (const double value : expected) {
      bound.push_back(dot_bound(0.5 * static_cast<double>(width), std::abs(value), 6));
    }
    expect_within(y, expected, bound, "y");
  }

  // dx = rstd (g - x_hat mean(g x_hat)): the mean sums D products (D roundings), and rstd, with D/2 + 3 of
  // its own, enters each term up to three times.
  void expect_backward(const Values<float>& input, const Values<float>& past_the_norm,
                       const Values<float>& dx, const Values<float>& dweight,
                       const Values<float>& dweight_before) {
    const auto loss_by_x = [&](const std::vector<Complex>& at) {
      return weighted_sum(reference::rms_norm(at, promoted<Complex>(weight), kEps), dy);
    };
    const auto loss_by_weight = [&](const std::vector<Complex>& at) {
      return weighted_sum(reference::rms_norm(promoted<Complex>(input), at, kEps), dy);
    };
    auto expected_dx = complex_step_gradient(loss_by_x, input);
    auto expected_dweight = complex_step_gradient(loss_by_weight, weight);
    const auto columns = static_cast<std::size_t>(width);
    std::vector<double> dx_bound(x.size());
    std::vector<double> dweight_magnitude(columns);
    const double d = static_cast<double>(width);
    for (std::size_t row = 0; row < x.size(); row += columns) {
      double sum_of_squares = 0;
      for (std::size_t i = row; i < row + columns; ++i) sum_of_squares += input[i] * input[i];
      const double r = 1.0 / std::sqrt(sum_of_squares / d + kEps);
      double mean = 0;
      for (std::size_t i = row; i < row + columns; ++i) {
        mean += std::abs(dy[i] * weight[i - row] * input[i] * r) / d;
        dweight_magnitude[i - row] += std::abs(dy[i] * input[i] * r);
      }
      for (std::size_t i = row; i < row + columns; ++i) {
        const double magnitude = r * (std::abs(dy[i] * weight[i - row]) + std::abs(input[i] * r) * mean);
        const double sum = magnitude + (past_the_norm.empty() ? 0.0 : std::abs(past_the_norm[i]));
        dx_bound[i] = dot_bound(2.5 * d, sum, 20);
        if (!past_the_norm.empty()) expected_dx[i] += past_the_norm[i];
      }
    }
    std::vector<double> dweight_bound;
    for (std::size_t i = 0; i < columns; ++i) {
      expected_dweight[i] += dweight_before[i];
      dweight_bound.push_back(dot_bound(static_cast<double>(rows) + 0.5 * d,
                                        dweight_magnitude[i] + std::abs(dweight_before[i]), 8));
    }
    expect_within(dx, expected_dx, dx_bound, "dx");
    expect_within(dweight, expected_dweight, dweight_bound, "dweight");
  }
};

// One row, one column, widths beside the vector width, more rows than one block of the weight's gradient.
INSTANTIATE_TEST_SUITE_P(Sizes, RmsNormTest,
                         testing::Values(Case{0, 5}, Case{1, 1}, Case{3, 17}, Case{1, 64}, Case{4, 33},
                                         Case{131, 5}, Case{5, 24}, Case{3, 1040}));

TEST_P(RmsNormTest, Forward) {
  rms_norm(ctx, {view(x, shape), view(weight, {width}), view(y, shape), view(rstd, {rows}), kEps});
  expect_forward(x);
}

TEST_P(RmsNormTest, ResultsInBf16AreThoseOfFp32Rounded) {
  const TensorView in_bf16 = ctx.memory.allocate(shape, DType::kBFloat16);
  const auto expect_rounded = [&] {
    for (std::size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(in_bf16.values<bfloat16>()[i], bfloat16(y[i])) << i;
    }
  };
  for (const TensorView result : {view(y, shape), in_bf16}) {
    rms_norm(ctx, {view(x, shape), view(weight, {width}), result, view(rstd, {rows}), kEps});
  }
  expect_rounded();
  Values<float> sum(x.size());
  for (const TensorView result : {view(y, shape), in_bf16}) {
    add_rms_norm(ctx, {view(x, shape), view(delta, shape), view(weight, {width}), view(sum, shape), result,
                       view(rstd, {rows}), kEps});
  }
  expect_rounded();
}

TEST_P(RmsNormTest, Backward) {
  rms_norm(ctx, {view(x, shape), view(weight, {width}), view(y, shape), view(rstd, {rows}), kEps});
  const auto before = random_values(width, "dweight before");
  auto dweight = before;
  auto dx = dy;  // in place
  rms_norm_backward(ctx, {view(dx, shape), view(x, shape), view(weight, {width}), view(rstd, {rows}),
                          view(dx, shape), view(dweight, {width})});
  expect_backward(x, {}, dx, dweight, before);
  EXPECT_EQ(ctx.memory.used_bytes(), 0U) << "scratch is given back";
}

TEST_P(RmsNormTest, AddedToTheResidual) {
  const auto expected_sum = residual_sum();
  auto sum = x;  // in place
  add_rms_norm(ctx, {view(sum, shape), view(delta, shape), view(weight, {width}), view(sum, shape),
                     view(y, shape), view(rstd, {rows}), kEps});
  EXPECT_EQ(sum, expected_sum);
  expect_forward(sum);

  const auto before = random_values(width, "dweight before");
  auto dweight = before;
  auto dx = dresidual;  // in place
  add_rms_norm_backward(ctx, {view(dy, shape), view(dx, shape), view(sum, shape), view(weight, {width}),
                              view(rstd, {rows}), view(dx, shape), view(dweight, {width})});
  expect_backward(sum, dresidual, dx, dweight, before);
}

TEST_P(RmsNormTest, ModuleIsTheOperatorWithItsWeight) {
  RmsNorm norm("norm", width, kEps);
  std::vector<Parameter*> parameters;
  norm.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 1U);
  EXPECT_EQ(parameters[0]->name(), "norm.weight");
  EXPECT_FALSE(parameters[0]->decays);
  EXPECT_EQ(copy_of(parameters[0]->value()), Values<float>(weight.size(), 1.0F));
  std::ranges::copy(weight, parameters[0]->mutable_value().data<float>());
  const Values<float> zeros(weight.size());

  y = copy_of(norm.forward(ctx, view(x, shape)));
  expect_forward(x);
  const auto dx = copy_of(norm.backward(ctx, view(dy, shape)));
  expect_backward(x, {}, dx, copy_of(parameters[0]->gradient()), zeros);

  parameters[0]->zero_gradient();
  const auto result = norm.add_forward(ctx, view(x, shape), view(delta, shape));
  EXPECT_EQ(copy_of(result.residual_sum), residual_sum());
  y = copy_of(result.y);
  expect_forward(residual_sum());
  const auto dsum = copy_of(norm.add_backward(ctx, view(dy, shape), view(dresidual, shape)));
  expect_backward(residual_sum(), dresidual, dsum, copy_of(parameters[0]->gradient()), zeros);
}

TEST(RmsNorm, GradientDoesNotDependOnTheNumberOfThreads) {
  const Shape shape{200, 37};
  const auto x = random_values(shape.elements(), "x");
  const auto dy = random_values(shape.elements(), "dy");
  const auto weight = random_values(37, "weight");
  const auto rstd = random_values(200, "rstd");
  LocalContext ctx;
  const auto dweight_with = [&](int threads) {
    const ThreadCount scope(threads);
    Values<float> dx(x.size());
    Values<float> dweight(weight.size());
    rms_norm_backward(ctx, {view(dy, shape), view(x, shape), view(weight, {37}), view(rstd, {200}),
                            view(dx, shape), view(dweight, {37})});
    return dweight;
  };
  EXPECT_EQ(dweight_with(1), dweight_with(2));
  EXPECT_EQ(dweight_with(1), dweight_with(5));
}

TEST(RmsNorm, RefusesShapesThatDoNotFit) {
  LocalContext ctx;
  Values<float> matrix(6);
  Values<float> three(3);
  Values<float> two(2);
  EXPECT_THROW(
      rms_norm(ctx, {view(matrix, {2, 3}), view(two, {2}), view(matrix, {2, 3}), view(two, {2}), kEps}),
      Error);
  EXPECT_THROW(
      rms_norm(ctx, {view(matrix, {2, 3}), view(three, {3}), view(matrix, {3, 2}), view(two, {2}), kEps}),
      Error);
}

}  // namespace
}  // namespace conclave
