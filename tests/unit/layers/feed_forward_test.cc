#include "layers/feed_forward/feed_forward.h"

#include "tests/support/operator_test.h"
#include "tests/support/reference/linear.h"
#include "tests/support/reference/swiglu.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

struct Case {
  std::int64_t tokens, d_model, d_ff;
};

class FeedForwardTest : public testing::TestWithParam<Case> {
 protected:
  std::int64_t tokens = GetParam().tokens;
  std::int64_t d_model = GetParam().d_model;
  std::int64_t d_ff = GetParam().d_ff;
  std::size_t D = static_cast<std::size_t>(d_model);
  std::size_t F = static_cast<std::size_t>(d_ff);
  Shape shape{tokens, d_model};
  std::vector<float> x = random_values(tokens * d_model, "x");
  std::vector<float> dy = random_values(tokens * d_model, "dy");
  FeedForward layer{"mlp", d_model, d_ff, 0.7, 0.4, 42};
  LocalContext ctx;

  template <class T>
  std::vector<T> output(const std::vector<T>& x_at, const std::vector<T>& gate_up,
                        const std::vector<T>& down) const {
    return reference::linear(reference::swiglu(reference::linear(x_at, gate_up, D), F), down, F);
  }

  struct Bounds {
    std::vector<double> y, dx, dgate_up, ddown;
  };

  // First-order error analysis of the chain, with every product replaced by its magnitude. P: magnitude of a
  // preactivation, whose error is D roundings of it. |silu(g)| <= P, |silu'| <= 1.1, |silu''| <= 0.5; the
  // sigmoid itself has at most 24 half-units in either direction of the chain (swiglu_test.cc).
  Bounds bounds(const std::vector<float>& gate_up, const std::vector<float>& down) const {
    const double d = static_cast<double>(d_model);
    const double f = static_cast<double>(d_ff);
    const double t = static_cast<double>(tokens);
    Bounds bound{std::vector<double>(x.size()), std::vector<double>(x.size()),
                 std::vector<double>(gate_up.size()), std::vector<double>(down.size())};
    for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
      const float* x_row = x.data() + token * D;
      const float* dy_row = dy.data() + token * D;
      for (std::size_t j = 0; j < F; ++j) {
        double p_gate = 0;
        double p_up = 0;
        double dh = 0;
        for (std::size_t i = 0; i < D; ++i) {
          p_gate += std::abs(x_row[i] * gate_up[j * D + i]);
          p_up += std::abs(x_row[i] * gate_up[(F + j) * D + i]);
          dh += std::abs(dy_row[i] * down[i * F + j]);
        }
        const double h = 2.1 * p_gate * p_up;
        const double dgate = dh * p_up * (3 + p_gate);
        const double dup = 2.1 * dh * p_gate;
        for (std::size_t i = 0; i < D; ++i) {
          bound.y[token * D + i] += dot_bound(d + f + 8, std::abs(down[i * F + j]) * h);
          bound.ddown[i * F + j] += dot_bound(d + t + 8, std::abs(dy_row[i]) * h);
          bound.dx[token * D + i] += dot_bound(d + 2 * f + 24, dgate * std::abs(gate_up[j * D + i]) +
                                                                   dup * std::abs(gate_up[(F + j) * D + i]));
          bound.dgate_up[j * D + i] += dot_bound(d + t + 24, dgate * std::abs(x_row[i]));
          bound.dgate_up[(F + j) * D + i] += dot_bound(d + t + 24, dup * std::abs(x_row[i]));
        }
      }
    }
    return bound;
  }
};

INSTANTIATE_TEST_SUITE_P(Sizes, FeedForwardTest,
                         testing::Values(Case{0, 3, 4}, Case{1, 1, 1}, Case{5, 7, 3}, Case{6, 4, 17}));

TEST_P(FeedForwardTest, ForwardAndBackward) {
  std::vector<Parameter*> parameters;
  layer.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 2U);
  EXPECT_EQ(parameters[0]->name(), "mlp.gate_up");
  EXPECT_EQ(parameters[0]->value().shape(), (Shape{2 * d_ff, d_model}));
  EXPECT_EQ(parameters[1]->name(), "mlp.down");
  EXPECT_EQ(parameters[1]->value().shape(), (Shape{d_model, d_ff}));
  const auto gate_up = copy_of(parameters[0]->value());
  const auto down = copy_of(parameters[1]->value());
  const Bounds bound = bounds(gate_up, down);

  const auto y = copy_of(layer.forward(ctx, view(x, shape)));
  const auto expected = output(promoted<double>(x), promoted<double>(gate_up), promoted<double>(down));
  expect_within(y, expected, bound.y, "y");

  const std::size_t used_by_forward = ctx.memory.used_bytes();
  const TensorView dx = layer.backward(ctx, view(dy, shape));
  EXPECT_LE(ctx.memory.used_bytes(), used_by_forward + static_cast<std::size_t>(dx.elements()) * 4 + 63)
      << "scratch is given back";
  const auto loss_by_x = [&](const std::vector<Complex>& at) {
    return weighted_sum(output(at, promoted<Complex>(gate_up), promoted<Complex>(down)), dy);
  };
  const auto loss_by_gate_up = [&](const std::vector<Complex>& at) {
    return weighted_sum(output(promoted<Complex>(x), at, promoted<Complex>(down)), dy);
  };
  const auto loss_by_down = [&](const std::vector<Complex>& at) {
    return weighted_sum(output(promoted<Complex>(x), promoted<Complex>(gate_up), at), dy);
  };
  expect_within(copy_of(dx), complex_step_gradient(loss_by_x, x), bound.dx, "dx");
  expect_within(copy_of(parameters[0]->gradient()), complex_step_gradient(loss_by_gate_up, gate_up),
                bound.dgate_up, "dgate_up");
  expect_within(copy_of(parameters[1]->gradient()), complex_step_gradient(loss_by_down, down), bound.ddown,
                "ddown");
}

TEST_P(FeedForwardTest, GradientsOfParametersAccumulate) {
  std::vector<Parameter*> parameters;
  layer.collect_parameters(parameters);
  const auto step = [&] {
    layer.forward(ctx, view(x, shape));
    layer.backward(ctx, view(dy, shape));
    ctx.memory.reset();
  };
  step();
  for (Parameter* parameter : parameters) {
    for (float& value : parameter->gradient().values<float>()) value *= -1.0F;
  }
  step();  // cancels: the same sums, in the same order, up to where the old value enters
  const auto gate_up = copy_of(parameters[0]->value());
  const auto down = copy_of(parameters[1]->value());
  const Bounds bound = bounds(gate_up, down);
  const std::vector<double> zeros_gate_up(gate_up.size());
  const std::vector<double> zeros_down(down.size());
  expect_within(copy_of(parameters[0]->gradient()), zeros_gate_up, bound.dgate_up, "dgate_up");
  expect_within(copy_of(parameters[1]->gradient()), zeros_down, bound.ddown, "ddown");
}

TEST_P(FeedForwardTest, EvaluationGivesTheSameAndKeepsOnlyTheResult) {
  const auto trained = copy_of(layer.forward(ctx, view(x, shape)));
  ctx.memory.reset();
  ctx.training = false;
  const TensorView y = layer.forward(ctx, view(x, shape));
  EXPECT_EQ(copy_of(y), trained);
  EXPECT_LE(ctx.memory.used_bytes(), static_cast<std::size_t>(y.elements()) * 4 + 63);
}

}  // namespace
}  // namespace conclave
