#include "layers/ops/activation/activation.h"

#include "tests/support/moe_case.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/activation.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

struct Case {
  config::Activation kind;
  std::int64_t tokens, width;
};

class ActivationTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Kinds, ActivationTest,
                         testing::Values(Case{config::gelu, 0, 4}, Case{config::gelu, 1, 1},
                                         Case{config::gelu, 4, 19}, Case{config::gelu, 7, 33},
                                         Case{config::relu, 0, 4}, Case{config::relu, 4, 19}));

TEST_P(ActivationTest, MatchesTheReference) {
  const auto [kind, tokens, width] = GetParam();
  const Shape shape{tokens, width};
  const auto up = random_values(shape.elements(), "up", 3.0);  // wide enough to saturate
  const auto dh = random_values(shape.elements(), "dh");
  LocalContext ctx;

  auto h = up;  // in place
  activation(ctx, {.kind = kind, .up = view(h, shape), .h = view(h, shape)});
  expect_within_bounds(h, reference::activations(kind, promoted<Bounded>(up)), "h");

  auto dup = up;  // in place
  activation_backward(ctx,
                      {.kind = kind, .up = view(dup, shape), .dh = view(dh, shape), .dup = view(dup, shape)});
  std::vector<Bounded> expected;
  for (std::size_t i = 0; i < up.size(); ++i) {
    expected.push_back(Bounded(dh[i]) * reference::activation_derivative(kind, Bounded(up[i])));
  }
  expect_within_bounds(dup, expected, "dup");

  const auto loss = [&, kind = kind](const std::vector<Complex>& at) {
    return weighted_sum(reference::activations(kind, at), dh);
  };
  const std::vector<double> complex_step = complex_step_gradient(loss, up);
  for (std::size_t i = 0; i < up.size(); ++i) EXPECT_NEAR(expected[i].value(), complex_step[i], 1e-13);
}

TEST(Activation, GeluIsCloseToItsExactForm) {
  for (double u = -6; u <= 6; u += 0.125) {
    const double exact = u * 0.5 * std::erfc(-u / std::sqrt(2.0));
    EXPECT_NEAR(reference::activation(config::gelu, u), exact, 5e-4);
    const double z = std::sqrt(2 / std::numbers::pi) * (u + 0.044715 * u * u * u);
    EXPECT_NEAR(reference::activation(config::gelu, u), 0.5 * u * (1 + std::tanh(z)), 1e-14);
  }
}

TEST(Activation, ExtremeValuesStayFinite) {
  const Values<float> up{-1e6F, 1e6F, -0.0F, 0.0F};
  const Values<float> dh(4, 1.0F);
  Values<float> h(4);
  Values<float> dup(4);
  LocalContext ctx;
  for (const config::Activation kind : {config::gelu, config::relu}) {
    activation(ctx, {.kind = kind, .up = view(up, {1, 4}), .h = view(h, {1, 4})});
    activation_backward(
        ctx, {.kind = kind, .up = view(up, {1, 4}), .dh = view(dh, {1, 4}), .dup = view(dup, {1, 4})});
    EXPECT_NEAR(h[0], 0.0F, 1e-30F);
    EXPECT_EQ(h[1], 1e6F);
    EXPECT_EQ(h[2], 0.0F);
    EXPECT_NEAR(dup[0], 0.0F, 1e-20F);
    EXPECT_EQ(dup[1], 1.0F);
    EXPECT_EQ(dup[2], kind == config::gelu ? 0.5F : 0.0F);
  }
}

TEST(Activation, RefusesShapesThatDoNotFitAndActivationsWithAGate) {
  LocalContext ctx;
  Values<float> up(12);
  Values<float> h(6);
  EXPECT_THROW(activation(ctx, {.kind = config::relu, .up = view(up, {3, 4}), .h = view(h, {2, 3})}), Error);
  EXPECT_THROW(activation(ctx, {.kind = config::swiglu, .up = view(h, {2, 3}), .h = view(h, {2, 3})}), Error);
}

}  // namespace
}  // namespace conclave
