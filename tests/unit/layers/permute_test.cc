#include "layers/ops/permute/permute.h"

#include <gtest/gtest.h>

#include <cmath>

#include "layers/tensor/philox.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave::test {
namespace {

// Choices are dealt to rows in a scrambled order; every `drop_every`-th is dropped (0: none).
struct Case {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::int64_t width = 0;
  std::vector<std::int32_t> choice_of_row, row_of_choice;
  Values<float> x, rows, weights, dy;

  std::int64_t row_count() const { return static_cast<std::int64_t>(choice_of_row.size()); }
};

Case make_case(std::int64_t tokens, std::int64_t top_k, std::int64_t width, std::int32_t drop_every) {
  Case c;
  c.tokens = tokens;
  c.top_k = top_k;
  c.width = width;
  const auto choices = static_cast<std::int32_t>(tokens * top_k);
  c.row_of_choice.assign(static_cast<std::size_t>(choices), kDroppedChoice);
  const RandomStream random(2, "order");
  std::vector<std::int32_t> order;
  for (std::int32_t choice = 0; choice < choices; ++choice) {
    if (drop_every != 0 && choice % drop_every == 0) continue;
    const std::size_t place = random.bits(static_cast<std::uint64_t>(choice)) % (order.size() + 1);
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(place), choice);
  }
  c.choice_of_row = order;
  for (std::size_t row = 0; row < order.size(); ++row) {
    c.row_of_choice[static_cast<std::size_t>(order[row])] = static_cast<std::int32_t>(row);
  }
  c.x = random_values(tokens * width, "x");
  c.rows = random_values(c.row_count() * width, "rows");
  c.weights = random_values(choices, "weights");
  c.dy = random_values(tokens * width, "dy");
  return c;
}

std::size_t index(std::int64_t row, std::int64_t width, std::int64_t column) {
  return static_cast<std::size_t>(row * width + column);
}

class PermuteTest : public testing::TestWithParam<Case> {
 protected:
  const Case& c = GetParam();
  LocalContext ctx;

  ConstTensorView tokens_view(const Values<float>& v) const {
    return tensor_view(std::span(v), {c.tokens, c.width});
  }
  ConstTensorView rows_view(const Values<float>& v) const {
    return tensor_view(std::span(v), {c.row_count(), c.width});
  }
  ConstTensorView weights_view() const { return tensor_view(std::span(c.weights), {c.tokens, c.top_k}); }
};

TEST_P(PermuteTest, GatherCopiesTheTokenOfEachRow) {
  Values<float> rows(c.rows.size(), NAN);
  gather_rows(ctx, {.x = tokens_view(c.x),
                    .choice_of_row = c.choice_of_row,
                    .top_k = c.top_k,
                    .rows = tensor_view(std::span(rows), {c.row_count(), c.width})});
  for (std::int64_t row = 0; row < c.row_count(); ++row) {
    const std::int64_t token = c.choice_of_row[static_cast<std::size_t>(row)] / c.top_k;
    for (std::int64_t d = 0; d < c.width; ++d) {
      ASSERT_EQ(rows[index(row, c.width, d)], c.x[index(token, c.width, d)]);
    }
  }
}

// <gather(x), rows> == <x, gather_backward(rows)> element by element: dx sums the rows of each token.
TEST_P(PermuteTest, GatherBackwardAddsTheRowsOfEachToken) {
  std::vector<double> expected(c.x.begin(), c.x.end());
  std::vector<double> magnitude;
  for (const float value : c.x) magnitude.push_back(std::abs(value));
  for (std::int64_t row = 0; row < c.row_count(); ++row) {
    const std::int64_t token = c.choice_of_row[static_cast<std::size_t>(row)] / c.top_k;
    for (std::int64_t d = 0; d < c.width; ++d) {
      expected[index(token, c.width, d)] += c.rows[index(row, c.width, d)];
      magnitude[index(token, c.width, d)] += std::abs(c.rows[index(row, c.width, d)]);
    }
  }
  Values<float> dx = c.x;
  gather_rows_backward(ctx, {.drows = rows_view(c.rows),
                             .row_of_choice = c.row_of_choice,
                             .top_k = c.top_k,
                             .dx = tensor_view(std::span(dx), {c.tokens, c.width})});
  for (std::size_t i = 0; i < dx.size(); ++i) {
    ASSERT_NEAR(dx[i], expected[i], dot_bound(static_cast<double>(c.top_k), magnitude[i]));
  }
}

TEST_P(PermuteTest, CombineWeighsTheRowsOfEachToken) {
  for (const bool accumulate : {false, true}) {
    Values<float> y = accumulate ? c.x : Values<float>(c.x.size(), NAN);
    combine_rows(ctx, {.rows = rows_view(c.rows),
                       .weights = weights_view(),
                       .row_of_choice = c.row_of_choice,
                       .y = tensor_view(std::span(y), {c.tokens, c.width}),
                       .accumulate = accumulate});
    for (std::int64_t token = 0; token < c.tokens; ++token) {
      for (std::int64_t d = 0; d < c.width; ++d) {
        double expected = accumulate ? c.x[index(token, c.width, d)] : 0.0F;
        double magnitude = std::abs(expected);
        for (std::int64_t row = 0; row < c.row_count(); ++row) {
          const std::int64_t choice = c.choice_of_row[static_cast<std::size_t>(row)];
          if (choice / c.top_k != token) continue;
          const double term = static_cast<double>(c.weights[static_cast<std::size_t>(choice)]) *
                              c.rows[index(row, c.width, d)];
          expected += term;
          magnitude += std::abs(term);
        }
        ASSERT_NEAR(y[index(token, c.width, d)], expected,
                    dot_bound(static_cast<double>(c.top_k), magnitude));
      }
    }
  }
}

TEST_P(PermuteTest, CombineBackwardGivesRowsAndWeightsTheirGradients) {
  for (const bool in_place : {false, true}) {
    Values<float> drows = in_place ? c.rows : Values<float>(c.rows.size(), NAN);
    Values<float> dweights(c.weights.size(), NAN);
    combine_rows_backward(ctx, {.dy = tokens_view(c.dy),
                                .rows = rows_view(in_place ? drows : c.rows),
                                .weights = weights_view(),
                                .row_of_choice = c.row_of_choice,
                                .drows = tensor_view(std::span(drows), {c.row_count(), c.width}),
                                .dweights = tensor_view(std::span(dweights), {c.tokens, c.top_k})});
    for (std::size_t choice = 0; choice < c.weights.size(); ++choice) {
      const std::int64_t row = c.row_of_choice[choice];
      const std::int64_t token = static_cast<std::int64_t>(choice) / c.top_k;
      if (row == kDroppedChoice) {
        EXPECT_EQ(dweights[choice], 0.0F);
        continue;
      }
      double expected = 0;
      double magnitude = 0;
      for (std::int64_t d = 0; d < c.width; ++d) {
        const float dy = c.dy[index(token, c.width, d)];
        ASSERT_EQ(drows[index(row, c.width, d)], c.weights[choice] * dy);
        const double term = static_cast<double>(dy) * c.rows[index(row, c.width, d)];
        expected += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(dweights[choice], expected, dot_bound(static_cast<double>(c.width), magnitude));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, PermuteTest,
                         testing::Values(make_case(7, 2, 5, 0), make_case(7, 3, 33, 4), make_case(1, 1, 1, 0),
                                         make_case(0, 2, 5, 0), make_case(3, 2, 8, 1),
                                         make_case(64, 2, 17, 5), make_case(5, 2, 24, 3),
                                         make_case(3, 2, 1040, 4)));  // several elements at a time

TEST(PermuteRowsTest, RowsWithoutChoiceAreZero) {
  const Values<float> x = {1, 2, 3, 4};  // [2, 2]
  const std::vector<std::int32_t> choice_of_row = {2, kNoChoiceOfRow, 1, kNoChoiceOfRow};
  Values<float> rows(8, 9.0F);
  LocalContext ctx;
  gather_rows(ctx,
              {.x = view(x, {2, 2}), .choice_of_row = choice_of_row, .top_k = 2, .rows = view(rows, {4, 2})});
  EXPECT_EQ(rows, (Values<float>{3, 4, 0, 0, 1, 2, 0, 0}));
  rows.assign(8, 9.0F);
  clear_rows_without_choice(ctx, choice_of_row, view(rows, {4, 2}));
  EXPECT_EQ(rows, (Values<float>{9, 9, 0, 0, 9, 9, 0, 0}));
}

TEST(PermuteErrorsTest, RefusesShapesThatDoNotFit) {
  const Case c = make_case(4, 2, 3, 0);
  Values<float> y(12);
  LocalContext ctx;
  CombineRowsArgs args{.rows = tensor_view(std::span(c.rows), {8, 3}),
                       .weights = tensor_view(std::span(c.weights), {4, 2}),
                       .row_of_choice = std::span(c.row_of_choice).first(7),
                       .y = tensor_view(std::span(y), {4, 3})};
  EXPECT_THROW(combine_rows(ctx, args), Error);
  args.row_of_choice = c.row_of_choice;
  args.rows = tensor_view(std::span(c.rows), {6, 4});
  EXPECT_THROW(combine_rows(ctx, args), Error);
}

}  // namespace
}  // namespace conclave::test
