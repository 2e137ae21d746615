#include "layers/moe/experts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/moe_case.h"
#include "tests/support/operator_test.h"

namespace conclave::test {
namespace {

std::vector<Bounded> bounded(std::span<const float> values) { return {values.begin(), values.end()}; }

// What dropout multiplies the hidden elements of token t at expert e with, by the definition; `pair` is
// t E + e.
std::vector<double> dropout_factors(std::int64_t pair, std::int64_t d_ff, double rate) {
  std::vector<double> factors;
  const RandomStream random(3, "e/dropout", 5);
  for (std::int64_t f = 0; rate > 0 && f < d_ff; ++f) {
    const auto words = random.block(static_cast<std::uint64_t>(pair * ((d_ff + 3) / 4) + f / 4));
    const double uniform = (words[static_cast<std::size_t>(f % 4)] >> 8) * 0x1p-24;
    factors.push_back(uniform < static_cast<float>(rate) ? 0 : 1 / (1 - rate));
  }
  return factors;
}

// Rows per expert, D and F.
void expect_matches_reference(const std::vector<std::int64_t>& rows_per_expert, std::int64_t d_model,
                              std::int64_t d_ff, config::Activation activation = config::swiglu,
                              double dropout = 0) {
  const std::int64_t in_rows = input_projections(activation) * d_ff;
  const auto experts = static_cast<std::int64_t>(rows_per_expert.size());
  std::vector<std::int64_t> offsets = {0};
  for (const std::int64_t rows : rows_per_expert) offsets.push_back(offsets.back() + rows);
  const std::int64_t rows = offsets.back();

  Arena arena;
  Context ctx{.arena = &arena};
  Experts module("e", {.experts = experts,
                       .local_experts = {0, experts},
                       .d_model = d_model,
                       .d_ff = d_ff,
                       .seed = 3,
                       .init_std = 0.5,
                       .output_init_std = 0.25,
                       .activation = activation,
                       .dropout = dropout});
  std::vector<Parameter*> parameters;
  module.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 2u);

  const std::vector<float> x = random_values(rows * d_model, "x");
  const std::vector<float> dy = random_values(rows * d_model, "dy");
  std::vector<std::int64_t> tokens;
  for (std::int64_t row = 0; row < rows; ++row) tokens.push_back(1000 + 7 * row);
  ctx.batch.step = 5;
  const TensorView y = module.forward(ctx, tensor_view(std::span(x), {rows, d_model}), offsets,
                                      tensor_view(std::span(tokens), {rows, 1}));
  const std::vector<float> y_values(y.values<float>().begin(), y.values<float>().end());
  const TensorView dx = module.backward(ctx, tensor_view(std::span(dy), {rows, d_model}));

  const auto gate_up = bounded(parameters[0]->value().values<float>());
  const auto down = bounded(parameters[1]->value().values<float>());
  std::vector<Bounded> dgate_up(gate_up.size()), ddown(down.size()), expected_y, expected_dx(x.size());
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t row = offsets[static_cast<std::size_t>(e)];
         row < offsets[static_cast<std::size_t>(e) + 1]; ++row) {
      const auto at = static_cast<std::size_t>(row * d_model);
      const auto width = static_cast<std::size_t>(d_model);
      const auto x_row = bounded(std::span(x).subspan(at, width));
      const auto dy_row = bounded(std::span(dy).subspan(at, width));
      const Bounded* gate_up_e = gate_up.data() + e * in_rows * d_model;
      const Bounded* down_e = down.data() + e * d_model * d_ff;
      const auto factors =
          dropout_factors(tokens[static_cast<std::size_t>(row)] * experts + e, d_ff, dropout);
      const reference::FeedForwardToken<Bounded> token(x_row.data(), gate_up_e, down_e, width,
                                                       static_cast<std::size_t>(d_ff), activation, factors);
      expected_y.insert(expected_y.end(), token.y.begin(), token.y.end());
      token.backward(x_row.data(), gate_up_e, down_e, dy_row, &expected_dx[at],
                     dgate_up.data() + e * in_rows * d_model, ddown.data() + e * d_model * d_ff);
    }
  }
  expect_within_bounds(y_values, expected_y, "y");
  expect_within_bounds(dx.values<float>(), expected_dx, "dx");
  expect_within_bounds(parameters[0]->gradient().values<float>(), dgate_up, "gradient of gate_up");
  expect_within_bounds(parameters[1]->gradient().values<float>(), ddown, "gradient of down");
}

TEST(ExpertsTest, UnevenLoads) { expect_matches_reference({3, 0, 7, 1}, 6, 5); }
TEST(ExpertsTest, AllRowsToOneExpert) { expect_matches_reference({0, 9, 0}, 5, 3); }
TEST(ExpertsTest, NoRows) { expect_matches_reference({0, 0}, 5, 3); }
TEST(ExpertsTest, NoExperts) { expect_matches_reference({}, 5, 3); }
TEST(ExpertsTest, Gelu) { expect_matches_reference({3, 0, 7, 1}, 6, 5, config::gelu); }
TEST(ExpertsTest, Relu) { expect_matches_reference({3, 0, 7, 1}, 6, 5, config::relu); }
TEST(ExpertsTest, Dropout) {
  expect_matches_reference({3, 0, 7, 1}, 6, 5, config::swiglu, 0.4);
  expect_matches_reference({2, 5}, 6, 9, config::gelu, 0.25);
}
TEST(ExpertsTest, WiderThanABlock) { expect_matches_reference({300, 2}, 9, 7); }

// Rows of four sources, one of them with none: each is computed as if it were alone, to the last bit, and the
// exact sums of the weights' gradients are those of the four one after the other.
TEST(ExpertsTest, PartsAreComputedAsIfAlone) {
  constexpr std::int64_t kExperts = 2;
  constexpr std::int64_t D = 6;
  const std::vector<std::int64_t> offsets = {0, 3, 8, 8, 8, 9, 30, 41, 47};  // [4 parts * 2 experts + 1]
  const std::vector<float> x = random_values(offsets.back() * D, "x");
  const std::vector<float> dy = random_values(offsets.back() * D, "dy");
  std::vector<std::int64_t> tokens;
  for (std::int64_t row = 0; row < offsets.back(); ++row) tokens.push_back(7 * row);

  struct Outcome {
    std::vector<float> y;
    std::vector<float> dx;
    std::vector<float> gradients;
  };
  const auto run = [&](const std::vector<std::vector<std::int64_t>>& calls) {
    Arena arena;
    Context ctx{.arena = &arena};
    Experts module("e", {.experts = kExperts,
                         .local_experts = {0, kExperts},
                         .d_model = D,
                         .d_ff = 5,
                         .seed = 3,
                         .init_std = 0.5,
                         .output_init_std = 0.25,
                         .dropout = 0.2});
    std::vector<Parameter*> parameters;
    module.collect_parameters(parameters);
    for (Parameter* parameter : parameters) parameter->sum_gradients_exactly();
    Outcome outcome;
    const auto append = [](std::vector<float>& all, ConstTensorView more) {
      all.insert(all.end(), more.values<float>().begin(), more.values<float>().end());
    };
    for (const std::vector<std::int64_t>& call : calls) {
      const std::int64_t rows = call.back() - call.front();
      const auto part = [&](const auto& all, std::int64_t width) {
        return tensor_view(std::span(all).subspan(static_cast<std::size_t>(call.front() * width),
                                                  static_cast<std::size_t>(rows * width)),
                           {rows, width});
      };
      std::vector<std::int64_t> from_zero;
      for (const std::int64_t offset : call) from_zero.push_back(offset - call.front());
      append(outcome.y, module.forward(ctx, part(x, D), from_zero, part(tokens, 1)));
      append(outcome.dx, module.backward(ctx, part(dy, D)));
      for (Parameter* parameter : parameters) parameter->fold_gradient();
    }
    for (Parameter* parameter : parameters) {
      parameter->unfold_gradient();
      append(outcome.gradients, parameter->gradient());
    }
    return outcome;
  };
  const Outcome together = run({offsets});
  const Outcome apart = run({{0, 3, 8}, {8, 8, 8}, {8, 9, 30}, {30, 41, 47}});
  EXPECT_EQ(together.y, apart.y);
  EXPECT_EQ(together.dx, apart.dx);
  EXPECT_EQ(together.gradients, apart.gradients);
  EXPECT_GT(std::ranges::max(together.gradients), 0);
}

TEST(ExpertsTest, InitialWeightsDoNotDependOnTheShard) {
  const auto weights = [](Range local) {
    Experts module("e", {.experts = 5, .local_experts = local, .d_model = 4, .d_ff = 3, .seed = 1});
    std::vector<Parameter*> parameters;
    module.collect_parameters(parameters);
    const auto values = parameters[0]->value().values<float>();
    return std::vector<float>(values.begin(), values.end());
  };
  const std::vector<float> all = weights({0, 5});
  const std::vector<float> shard = weights({3, 5});
  EXPECT_TRUE(std::equal(shard.begin(), shard.end(), all.begin() + 3 * 2 * 3 * 4));
}

}  // namespace
}  // namespace conclave::test
