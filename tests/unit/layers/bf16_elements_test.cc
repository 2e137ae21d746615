// Operators that take fp32 or bf16: with bf16 they compute what fp32 computes of the same, rounded, inputs,
// and round once.
#include <gtest/gtest.h>

#include <cmath>

#include "layers/ops/activation/activation.h"
#include "layers/ops/dropout/dropout.h"
#include "layers/ops/permute/permute.h"
#include "layers/ops/swiglu/swiglu.h"
#include "tests/support/operator_test.h"

namespace conclave::test {
namespace {

constexpr double kRoundoff = 0x1p-8;

// The same values in both formats.
struct Pair {
  Values<bfloat16> bf16;
  Values<float> fp32;

  explicit Pair(const Values<float>& values) {
    for (const float value : values) {
      bf16.emplace_back(value);
      fp32.push_back(static_cast<float>(bf16.back()));
    }
  }
  // Results: what isn't assigned shows.
  explicit Pair(std::int64_t count) : Pair(Values<float>(static_cast<std::size_t>(count), std::nanf(""))) {}
};

void expect_rounded(const Values<bfloat16>& actual, const Values<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double value = expected[i];
    ASSERT_TRUE(std::abs(static_cast<float>(actual[i]) - value) <= kRoundoff * std::abs(value) + 1e-38)
        << "element " << i << ": " << static_cast<float>(actual[i]) << ", in fp32 " << value;
  }
}

TEST(Bf16Elements, Swiglu) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kWidth = 37;
  const Pair gate_up(random_values(kRows * 2 * kWidth, "gate_up", 3.0));
  const Pair dh(random_values(kRows * kWidth, "dh"));
  Pair h(kRows * kWidth);
  Pair d(kRows * 2 * kWidth);
  LocalContext ctx;
  const auto run = [&](const auto& in, const auto& gradient, auto& out, auto& dout) {
    const ConstTensorView x = tensor_view(std::span(in), {kRows, 2 * kWidth});
    swiglu(ctx, {.gate_up = x, .h = tensor_view(std::span(out), {kRows, kWidth})});
    swiglu_backward(ctx, {.gate_up = x,
                          .dh = tensor_view(std::span(gradient), {kRows, kWidth}),
                          .dgate_up = tensor_view(std::span(dout), {kRows, 2 * kWidth})});
  };
  run(gate_up.bf16, dh.bf16, h.bf16, d.bf16);
  run(gate_up.fp32, dh.fp32, h.fp32, d.fp32);
  expect_rounded(h.bf16, h.fp32);
  expect_rounded(d.bf16, d.fp32);
}

TEST(Bf16Elements, Activations) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kWidth = 37;
  const Pair up(random_values(kRows * kWidth, "up", 3.0));
  const Pair dh(random_values(kRows * kWidth, "dh"));
  for (const config::Activation kind : {config::gelu, config::relu}) {
    Pair h(kRows * kWidth);
    Pair d(kRows * kWidth);
    LocalContext ctx;
    const auto run = [&](const auto& in, const auto& gradient, auto& out, auto& dout) {
      const Shape shape{kRows, kWidth};
      activation(ctx, {kind, tensor_view(std::span(in), shape), tensor_view(std::span(out), shape)});
      activation_backward(ctx,
                          {kind, tensor_view(std::span(in), shape), tensor_view(std::span(gradient), shape),
                           tensor_view(std::span(dout), shape)});
    };
    run(up.bf16, dh.bf16, h.bf16, d.bf16);
    run(up.fp32, dh.fp32, h.fp32, d.fp32);
    expect_rounded(h.bf16, h.fp32);
    expect_rounded(d.bf16, d.fp32);
  }
}

TEST(Bf16Elements, Dropout) {
  constexpr std::int64_t kRows = 3;
  constexpr std::int64_t kWidth = 22;
  Pair x(random_values(kRows * kWidth, "x"));
  const std::vector<std::int64_t> first_block{0, 40, 12};
  const auto run = [&](auto& values) {
    Values<std::uint8_t> kept(kRows * kWidth);
    LocalContext ctx;
    const TensorView mask = tensor_view(std::span(kept), {kRows, kWidth});
    const TensorView view = tensor_view(std::span(values), {kRows, kWidth});
    dropout(ctx, {RandomStream(7, "mask"), first_block, 0.3F, view, mask});
    dropout_backward(ctx, {mask, 0.3F, view});
    return kept;
  };
  EXPECT_EQ(run(x.bf16), run(x.fp32));
  for (std::size_t i = 0; i < x.bf16.size(); ++i) {  // rounded twice, once a pass
    EXPECT_NEAR(static_cast<float>(x.bf16[i]), x.fp32[i],
                2 * kRoundoff * (1 + kRoundoff) * std::abs(x.fp32[i]));
  }
}

TEST(Bf16Elements, Permutations) {
  constexpr std::int64_t kTokens = 4;
  constexpr std::int64_t kTopK = 2;
  constexpr std::int64_t kWidth = 19;
  constexpr std::int64_t kRows = 7;
  const std::vector<std::int32_t> row_of_choice{2, 0, kDroppedChoice, 1, 5, 4, 6, kDroppedChoice};
  std::vector<std::int32_t> choice_of_row(kRows, kNoChoiceOfRow);  // row 3 belongs to none
  for (std::size_t choice = 0; choice < row_of_choice.size(); ++choice) {
    if (row_of_choice[choice] != kDroppedChoice)
      choice_of_row[static_cast<std::size_t>(row_of_choice[choice])] = static_cast<std::int32_t>(choice);
  }
  const Values<float> x = random_values(kTokens * kWidth, "x");
  const Values<float> dy = random_values(kTokens * kWidth, "dy");
  const Values<float> weights = random_values(kTokens * kTopK, "weights");
  const Shape tokens{kTokens, kWidth};
  const Shape rows{kRows, kWidth};
  LocalContext ctx;

  Pair gathered(kRows * kWidth);
  const auto gather = [&](auto& out) {
    gather_rows(ctx,
                {tensor_view(std::span(x), tokens), choice_of_row, kTopK, tensor_view(std::span(out), rows)});
  };
  gather(gathered.bf16);
  gather(gathered.fp32);
  expect_rounded(gathered.bf16, gathered.fp32);

  const Pair values(random_values(kRows * kWidth, "rows"));
  const auto from_rows = [&](const auto& in) {
    Values<float> y(kTokens * kWidth, std::nanf(""));
    Values<float> dx(kTokens * kWidth, 0.5F);
    const ConstTensorView all = tensor_view(std::span(in), rows);
    combine_rows(ctx, {all, tensor_view(std::span(weights), {kTokens, kTopK}), row_of_choice,
                       tensor_view(std::span(y), tokens)});
    gather_rows_backward(ctx, {all, row_of_choice, kTopK, tensor_view(std::span(dx), tokens)});
    return std::pair(y, dx);
  };
  EXPECT_EQ(from_rows(values.bf16), from_rows(values.fp32));  // results are fp32: nothing is rounded

  Pair drows(kRows * kWidth);
  const auto backward = [&](const auto& in, auto& out) {
    Values<float> dweights(kTokens * kTopK, std::nanf(""));
    const TensorView gradient = tensor_view(std::span(out), rows);
    combine_rows_backward(ctx, {tensor_view(std::span(dy), tokens), tensor_view(std::span(in), rows),
                                tensor_view(std::span(weights), {kTokens, kTopK}), row_of_choice, gradient,
                                tensor_view(std::span(dweights), {kTokens, kTopK})});
    clear_rows_without_choice(ctx, choice_of_row, gradient);
    return dweights;
  };
  const Values<float> dweights = backward(values.bf16, drows.bf16);
  const Values<float> expected = backward(values.fp32, drows.fp32);
  for (std::size_t i = 0; i < dweights.size(); ++i) EXPECT_NEAR(dweights[i], expected[i], 1e-5) << i;
  expect_rounded(drows.bf16, drows.fp32);
}

}  // namespace
}  // namespace conclave::test
