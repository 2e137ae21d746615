#include "layers/ops/swiglu/swiglu.h"

#include "tests/support/operator_test.h"
#include "tests/support/reference/swiglu.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

struct Case {
  std::int64_t tokens, width;
};

class SwigluTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Sizes, SwigluTest,
                         testing::Values(Case{0, 4}, Case{1, 1}, Case{3, 16}, Case{4, 19}, Case{7, 5}));

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

TEST_P(SwigluTest, MatchesTheReference) {
  const auto [tokens, width] = GetParam();
  const auto columns = static_cast<std::size_t>(width);
  const Shape shape{tokens, width};
  const Shape double_shape{tokens, 2 * width};
  // Wide enough that gates saturate.
  const auto gate_up = random_values(double_shape.elements(), "gate_up", 4.0);
  const auto dh = random_values(shape.elements(), "dh");
  LocalContext ctx;

  Values<float> h(dh.size());
  swiglu(ctx, {view(gate_up, double_shape), view(h, shape)});
  const auto expected = reference::swiglu(promoted<double>(gate_up), columns);
  // The exponential has four half-units, the sigmoid two roundings more, then two products.
  std::vector<double> bound;
  for (const double value : expected) bound.push_back(dot_bound(8, std::abs(value), 0));
  expect_within(h, expected, bound, "h");

  auto dgate_up = gate_up;  // in place
  swiglu_backward(ctx, {view(dgate_up, double_shape), view(dh, shape), view(dgate_up, double_shape)});
  const auto loss = [&](const std::vector<Complex>& at) {
    return weighted_sum(reference::swiglu(at, columns), dh);
  };
  // dgate: the sigmoid's six roundings are relative to 1 in 1 - sigmoid, and are multiplied by the gate.
  std::vector<double> gradient_bound(gate_up.size());
  for (std::size_t i = 0; i < dh.size(); ++i) {
    const std::size_t gate_at = i / columns * 2 * columns + i % columns;
    const double gate = gate_up[gate_at];
    const double up = gate_up[gate_at + columns];
    gradient_bound[gate_at] = dot_bound(20, std::abs(dh[i] * up * sigmoid(gate)) * (1.0 + std::abs(gate)), 0);
    gradient_bound[gate_at + columns] = dot_bound(8, std::abs(dh[i] * gate * sigmoid(gate)), 0);
  }
  expect_within(dgate_up, complex_step_gradient(loss, gate_up), gradient_bound, "dgate_up");
}

TEST(Swiglu, ExtremeGatesStayFinite) {
  const Values<float> gate_up{-1000.0F, 1000.0F, 2.0F, 2.0F};
  const Values<float> dh{1.0F, 1.0F};
  Values<float> h(2);
  Values<float> dgate_up(4);
  LocalContext ctx;
  swiglu(ctx, {view(gate_up, {1, 4}), view(h, {1, 2})});
  swiglu_backward(ctx, {view(gate_up, {1, 4}), view(dh, {1, 2}), view(dgate_up, {1, 4})});
  EXPECT_NEAR(h[0], 0.0F, 1e-30F);
  EXPECT_EQ(h[1], 2000.0F);
  EXPECT_NEAR(dgate_up[0], 0.0F, 1e-30F);
  EXPECT_EQ(dgate_up[1], 2.0F);
}

TEST(Swiglu, RefusesShapesThatDoNotFit) {
  LocalContext ctx;
  Values<float> gate_up(12);
  Values<float> h(6);
  EXPECT_THROW(swiglu(ctx, {view(gate_up, {3, 4}), view(h, {2, 3})}), Error);
}

}  // namespace
}  // namespace conclave
