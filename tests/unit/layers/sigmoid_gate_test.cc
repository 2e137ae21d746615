#include "layers/ops/sigmoid_gate/sigmoid_gate.h"

#include "tests/support/moe_case.h"
#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using namespace test;

struct Case {
  std::int64_t tokens, width;
};

class SigmoidGateTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Sizes, SigmoidGateTest, testing::Values(Case{0, 4}, Case{1, 1}, Case{5, 19}));

TEST_P(SigmoidGateTest, MatchesTheDefinition) {
  const auto [tokens, width] = GetParam();
  const auto columns = static_cast<std::size_t>(width);
  const Shape shape{tokens, width};
  const auto logits = random_values(tokens, "logits", 3.0);
  const auto x = random_values(shape.elements(), "x");
  const auto dy = random_values(shape.elements(), "dy");
  LocalContext ctx;
  Values<float> y(x.size());
  sigmoid_gate(ctx, {.logits = view(logits, {tokens, 1}), .x = view(x, shape), .y = view(y, shape)});
  Values<float> dlogits(logits.size());
  auto dx = x;  // in place
  sigmoid_gate_backward(ctx, {.logits = view(logits, {tokens, 1}),
                              .x = view(dx, shape),
                              .dy = view(dy, shape),
                              .dlogits = view(dlogits, {tokens, 1}),
                              .dx = view(dx, shape)});

  std::vector<Bounded> expected_y, expected_dx, expected_dlogits;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    const Bounded gate = Bounded(1.0) / (Bounded(1.0) + exp(-Bounded(logits[t])));
    Bounded dgate;
    for (std::size_t i = t * columns; i < (t + 1) * columns; ++i) {
      expected_y.push_back(gate * Bounded(x[i]));
      expected_dx.push_back(gate * Bounded(dy[i]));
      dgate += Bounded(dy[i]) * Bounded(x[i]);
    }
    expected_dlogits.push_back(dgate * gate * (Bounded(1.0) - gate));
  }
  expect_within_bounds(y, expected_y, "y");
  expect_within_bounds(dx, expected_dx, "dx");
  expect_within_bounds(dlogits, expected_dlogits, "dlogits");
}

TEST(SigmoidGate, RefusesShapesThatDoNotFit) {
  LocalContext ctx;
  Values<float> logits(3);
  Values<float> x(6);
  EXPECT_THROW(
      sigmoid_gate(ctx, {.logits = view(logits, {3, 1}), .x = view(x, {2, 3}), .y = view(x, {2, 3})}), Error);
}

}  // namespace
}  // namespace conclave
