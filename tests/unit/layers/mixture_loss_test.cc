#include "layers/ops/mixture_loss/mixture_loss.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/operator_test.h"
#include "tests/support/reference/mixture_loss.h"

namespace conclave::test {
namespace {

using Complex = std::complex<double>;

// Results start as NaN, so that what isn't assigned shows.
struct Case {
  std::int64_t samples;
  std::int64_t experts;
  std::int64_t width;
  double sigma = 0.8;
  double scale = 0.125;
  Values<float> logits = random_values(samples * experts, "logits", 2.0);
  Values<float> outputs = random_values(samples * experts * width, "outputs");
  Values<float> targets = random_values(samples * width, "targets");
  std::vector<std::int32_t> row_of_choice =
      std::vector<std::int32_t>(static_cast<std::size_t>(samples * experts));
  Values<std::int32_t> best = Values<std::int32_t>(static_cast<std::size_t>(samples), -1);
  Values<float> dlogits = Values<float>(logits.size(), NAN);
  Values<float> doutputs = Values<float>(outputs.size(), NAN);

  Case(std::int64_t t, std::int64_t e, std::int64_t o) : samples(t), experts(e), width(o) {
    for (std::int64_t i = 0; i < samples * experts; ++i)  // ordered by expert, as plans order rows
      row_of_choice[static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(i % experts * samples + i / experts);
  }
  std::size_t row(std::int64_t t, std::int64_t e) const {
    return static_cast<std::size_t>(row_of_choice[static_cast<std::size_t>(t * experts + e)] * width);
  }
  MixtureLossArgs args(bool gradients) {
    MixtureLossArgs args{.logits = view(logits, {samples, experts}),
                         .outputs = view(outputs, {samples * experts, width}),
                         .row_of_choice = row_of_choice,
                         .targets = view(targets, {samples, width}),
                         .sigma = sigma,
                         .best = view(best, {samples})};
    if (gradients) {
      args.dlogits = view(dlogits, {samples, experts});
      args.doutputs = view(doutputs, {samples * experts, width});
      args.scale = scale;
    }
    return args;
  }
  template <class T>
  T reference(std::int64_t t, const std::vector<T>& l, const std::vector<T>& o) const {
    std::vector<std::vector<T>> outputs_of_t;
    for (std::int64_t e = 0; e < experts; ++e)
      outputs_of_t.emplace_back(&o[row(t, e)], &o[row(t, e)] + width);
    return reference::mixture_loss(std::vector<T>(&l[static_cast<std::size_t>(t * experts)],
                                                  &l[static_cast<std::size_t>(t * experts)] + experts),
                                   outputs_of_t,
                                   std::vector<double>(&targets[static_cast<std::size_t>(t * width)],
                                                       &targets[static_cast<std::size_t>(t * width)] + width),
                                   sigma);
  }
};

class MixtureLossTest : public testing::TestWithParam<std::array<std::int64_t, 3>> {};

// The operator computes in double and rounds each gradient once to fp32.
TEST_P(MixtureLossTest, LossAndGradientsMatchTheReference) {
  Case c(GetParam()[0], GetParam()[1], GetParam()[2]);
  LocalContext ctx;
  const MixtureLossResult result = mixture_loss(ctx, c.args(true));
  double expected = 0;
  for (std::int64_t t = 0; t < c.samples; ++t)
    expected += c.reference(t, promoted<double>(c.logits), promoted<double>(c.outputs));
  EXPECT_NEAR(result.loss_sum, expected, 1e-12 * (1 + expected));

  constexpr double kStep = 1e-100;
  const auto check = [&](std::vector<Complex>& of, const Values<float>& actual,
                         const std::vector<Complex>& logits, const std::vector<Complex>& outputs) {
    for (std::size_t i = 0; i < of.size(); ++i) {
      of[i].imag(kStep);
      double derivative = 0;
      for (std::int64_t t = 0; t < c.samples; ++t) derivative += c.reference(t, logits, outputs).imag();
      of[i].imag(0);
      derivative *= c.scale / kStep;
      ASSERT_NEAR(actual[i], derivative, std::abs(derivative) * 1e-6 + 1e-12) << i;
    }
  };
  std::vector<Complex> logits = promoted<Complex>(c.logits);
  std::vector<Complex> outputs = promoted<Complex>(c.outputs);
  check(logits, c.dlogits, logits, outputs);
  check(outputs, c.doutputs, logits, outputs);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MixtureLossTest,
                         testing::Values(std::array<std::int64_t, 3>{1, 1, 1},
                                         std::array<std::int64_t, 3>{5, 3, 2},
                                         std::array<std::int64_t, 3>{7, 1, 3},
                                         std::array<std::int64_t, 3>{3, 6, 1},
                                         std::array<std::int64_t, 3>{0, 4, 2}));

TEST(MixtureLoss, CountsErrorsOfTheMeanAndOfTheMostProbable) {
  Case c(1, 2, 1);
  LocalContext ctx;
  c.logits = {0, static_cast<float>(std::log(3.0))};  // p = 1/4, 3/4
  c.outputs = {5, 1};
  c.targets = {3};
  const MixtureLossResult result = mixture_loss(ctx, c.args(false));
  EXPECT_EQ(c.best[0], 1);
  EXPECT_NEAR(result.squared_error_sum, 1, 1e-6);  // the mean is 2
  EXPECT_NEAR(result.best_squared_error_sum, 4, 1e-6);
  EXPECT_NEAR(result.entropy_sum, 0.25 * std::log(4) + 0.75 * std::log(4.0 / 3), 1e-6);
  EXPECT_TRUE(std::isnan(c.dlogits[0])) << "no gradient was asked for";
  c.logits = {1, 1};
  mixture_loss(ctx, c.args(false));
  EXPECT_EQ(c.best[0], 0) << "the lower id of equal ones";
}

// No expert explains a sample: every exponential underflows, their ratios and the loss do not.
TEST(MixtureLoss, FarTargetsStayFinite) {
  Case c(1, 3, 1);
  LocalContext ctx;
  c.targets = {1e4F};
  c.outputs = {1, 2, 0};
  const MixtureLossResult result = mixture_loss(ctx, c.args(true));
  EXPECT_TRUE(std::isfinite(result.loss_sum));
  EXPECT_NEAR(c.doutputs[1], c.scale * (2 - 1e4) / (c.sigma * c.sigma), 1) << "the nearest takes it all";
  EXPECT_EQ(c.doutputs[2], 0);
}

TEST(MixtureLoss, RefusesWhatDoesNotFit) {
  Case c(4, 3, 2);
  LocalContext ctx;
  MixtureLossArgs args = c.args(true);
  args.doutputs = {};
  EXPECT_THROW(mixture_loss(ctx, args), Error) << "one gradient alone";
  args = c.args(true);
  args.targets = view(c.targets, {8, 1});
  EXPECT_THROW(mixture_loss(ctx, args), Error);
  args = c.args(true);
  args.sigma = 0;
  EXPECT_THROW(mixture_loss(ctx, args), Error);
  args = c.args(true);
  args.row_of_choice = args.row_of_choice.rows(0, 5);
  EXPECT_THROW(mixture_loss(ctx, args), Error);
}

}  // namespace
}  // namespace conclave::test
