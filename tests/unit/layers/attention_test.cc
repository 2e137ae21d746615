#include "layers/ops/attention/attention.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "tests/support/attention_case.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/attention.h"
#include "tests/support/tolerance.h"

namespace conclave {

namespace {

using test::AttentionBounds;
using test::AttentionCase;
using test::AttentionProblem;
using test::expect_attention;
using test::expect_attention_gradients;
using test::Factors;
using test::promoted;
using test::Values;
using test::view;

// The reference's backward is the derivative of its forward: d/dx f = Im f(x + ih) / h, exact to rounding
// (Squire and Trapp, 1998).
TEST(AttentionReference, BackwardIsTheComplexStepDerivative) {
  for (const bool causal : {true, false}) {
    const AttentionCase c({.sequences = 2,
                           .sequence_length = 3,
                           .heads = 4,
                           .kv_heads = 2,
                           .head_dim = 3,
                           .causal = causal,
                           .padding = {0, 1, 0, 1, 0, 1}});
    const auto gradients =
        test::reference_attention_backward(c.problem, promoted<double>(c.q), promoted<double>(c.k),
                                           promoted<double>(c.v), promoted<double>(c.dy));
    using Complex = std::complex<double>;
    std::vector<Complex> inputs[] = {promoted<Complex>(c.q), promoted<Complex>(c.k), promoted<Complex>(c.v)};
    const std::vector<double>* expected[] = {&gradients.dq.value, &gradients.dk.value, &gradients.dv.value};
    constexpr double kStep = 1e-100;
    for (int input = 0; input < 3; ++input) {
      for (std::size_t i = 0; i < inputs[input].size(); ++i) {
        inputs[input][i] += Complex(0, kStep);
        const auto y = test::reference_attention(c.problem, inputs[0], inputs[1], inputs[2]).y;
        inputs[input][i] = inputs[input][i].real();
        double derivative = 0.0;
        for (std::size_t j = 0; j < y.size(); ++j) derivative += c.dy[j] * y[j].imag() / kStep;
        ASSERT_NEAR((*expected[input])[i], derivative, 1e-13) << "input " << input << " element " << i;
      }
    }
  }
}

// What can be multiplied here.
std::vector<DType> compute_types(const Context& ctx) {
  if (ctx.on_gpu() || has_bf16_products()) return {DType::kFloat32, DType::kBFloat16};
  return {DType::kFloat32};  // this processor has no AVX512-BF16
}

class AttentionSizes : public testing::TestWithParam<AttentionProblem> {};

TEST_P(AttentionSizes, ForwardAndBackwardMatchTheReference) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    AttentionCase c(GetParam());
    c.forward(ctx);
    expect_attention(c, compute);
    c.backward(ctx);
    expect_attention_gradients(c, compute);
    EXPECT_EQ(ctx.memory.used_bytes(), 0U) << "scratch must be given back";
  }
}

TEST_P(AttentionSizes, Bf16ProductsOfExactFactorsMissNothing) {
  test::LocalContext ctx;
  ctx.compute = compute_types(ctx).back();
  if (ctx.compute != DType::kBFloat16) GTEST_SKIP() << "this processor has no AVX512-BF16";
  AttentionCase c(GetParam());
  c.round_operands_to_bf16();
  c.forward(ctx);
  expect_attention(c, ctx.compute, Factors::kExactInBf16);
  c.backward(ctx);
  expect_attention_gradients(c, ctx.compute, Factors::kExactInBf16);
}

// Operands are rounded before they meet.
TEST(Attention, Bf16ProductsSeeRoundedFactors) {
  test::LocalContext ctx;
  ctx.compute = compute_types(ctx).back();
  if (ctx.compute != DType::kBFloat16) GTEST_SKIP() << "this processor has no AVX512-BF16";
  AttentionCase c({.sequences = 2, .sequence_length = 70, .heads = 2, .kv_heads = 1, .head_dim = 20});
  AttentionCase rounded = c;
  rounded.round_operands_to_bf16();
  c.forward(ctx);
  rounded.forward(ctx);
  EXPECT_EQ(c.y, rounded.y);
  EXPECT_EQ(c.log_sum_exp, rounded.log_sum_exp);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionSizes,
                         testing::Values(AttentionProblem{1, 1, 1, 1, 2}, AttentionProblem{3, 1, 4, 2, 6},
                                         AttentionProblem{3, 7, 4, 4, 5}, AttentionProblem{2, 33, 6, 2, 8},
                                         AttentionProblem{2, 20, 4, 1, 16},
                                         AttentionProblem{2, 7, 4, 2, 4, false},
                                         AttentionProblem{1, 150, 2, 1, 4, false}));

// Blocks are 64 queries by 128 keys.
INSTANTIATE_TEST_SUITE_P(BlockEdges, AttentionSizes,
                         testing::Values(AttentionProblem{1, 63, 2, 1, 4}, AttentionProblem{1, 64, 2, 1, 4},
                                         AttentionProblem{1, 65, 2, 1, 4}, AttentionProblem{1, 127, 2, 1, 4},
                                         AttentionProblem{2, 128, 1, 1, 4}, AttentionProblem{1, 129, 2, 2, 4},
                                         AttentionProblem{1, 193, 2, 1, 4}, AttentionProblem{1, 257, 2, 1, 4},
                                         AttentionProblem{1, 129, 1, 1, 4, false}));

// Kernels have blocks, and registers, for some widths of heads; others are widened to the next.
INSTANTIATE_TEST_SUITE_P(
    HeadWidths, AttentionSizes,
    testing::Values(AttentionProblem{1, 31, 2, 1, 20}, AttentionProblem{1, 65, 1, 1, 33},
                    AttentionProblem{1, 65, 2, 1, 64}, AttentionProblem{1, 65, 2, 2, 80},
                    AttentionProblem{1, 130, 1, 1, 96}, AttentionProblem{1, 130, 2, 1, 128},
                    AttentionProblem{1, 33, 2, 1, 130, false}, AttentionProblem{1, 65, 1, 1, 192},
                    AttentionProblem{1, 65, 2, 1, 255}, AttentionProblem{1, 33, 1, 1, 256},
                    AttentionProblem{1, 2, 1, 1, 257}));

// Every third token, whole blocks, the end of a sequence, a whole sequence: the first queries of a causal
// sequence whose begin is padding, and all of one that is padding alone, see nothing.
AttentionProblem padded(AttentionProblem problem, const std::vector<Range>& padding) {
  problem.padding.assign(static_cast<std::size_t>(problem.tokens()), 0);
  for (const Range& range : padding) {
    std::fill(problem.padding.begin() + range.begin, problem.padding.begin() + range.end, 1);
  }
  return problem;
}

INSTANTIATE_TEST_SUITE_P(Padding, AttentionSizes,
                         testing::Values(padded({2, 7, 4, 2, 4}, {{5, 7}, {7, 9}, {12, 13}}),
                                         padded({2, 7, 4, 2, 4, false}, {{5, 7}, {7, 9}, {12, 13}}),
                                         padded({3, 5, 2, 1, 4, false}, {{5, 10}}),
                                         padded({3, 5, 2, 1, 4}, {{5, 10}}),
                                         padded({1, 300, 2, 1, 4, false}, {{0, 130}, {256, 300}}),
                                         padded({1, 300, 2, 1, 4, false}, {{1, 2}, {100, 270}}),
                                         padded({1, 200, 2, 1, 4}, {{0, 129}, {150, 160}}),
                                         padded({2, 65, 4, 2, 40}, {{0, 33}, {60, 61}, {100, 130}}),
                                         padded({2, 40, 2, 1, 128}, {{0, 40}, {60, 62}}),
                                         padded({2, 40, 2, 1, 200}, {{3, 5}, {40, 50}})));

// Not even its value: padding may hold anything finite.
TEST(Attention, PaddingIsSeenByNobody) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    const AttentionProblem problem = padded({2, 70, 2, 1, 4, false}, {{60, 70}, {75, 76}});
    AttentionCase before(problem);
    before.forward(ctx);
    before.backward(ctx);
    AttentionCase after(problem);
    for (std::int64_t t = 0; t < problem.tokens(); ++t) {
      if (problem.padding[static_cast<std::size_t>(t)] == 0) continue;
      for (std::int64_t d = 0; d < problem.head_dim; ++d)
        after.k[problem.key(t, 0, d)] = after.v[problem.key(t, 0, d)] = 1e3F;
    }
    after.forward(ctx);
    after.backward(ctx);
    EXPECT_EQ(before.y, after.y);
    EXPECT_EQ(before.dv, after.dv);
    for (std::int64_t d = 0; d < problem.head_dim; ++d) {
      EXPECT_EQ(after.dk[problem.key(65, 0, d)], 0.0F);
      EXPECT_EQ(after.dv[problem.key(65, 0, d)], 0.0F);
    }
  }
}

// Scores of several hundreds: exp would overflow without the running maximum.
TEST(Attention, LargeScoresStayFinite) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    AttentionCase c({.sequences = 1, .sequence_length = 200, .heads = 2, .kv_heads = 1, .head_dim = 8},
                    100.0F);
    c.forward(ctx);
    expect_attention(c, compute);
    c.backward(ctx);
    expect_attention_gradients(c, compute);
  }
}

TEST(Attention, CausalResultsIgnoreTheFuture) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    const AttentionProblem problem{
        .sequences = 1, .sequence_length = 140, .heads = 2, .kv_heads = 1, .head_dim = 4};
    AttentionCase before(problem);
    before.forward(ctx);
    AttentionCase after(problem);
    constexpr std::int64_t kChanged = 130;  // in the middle of a block
    for (auto* values : {&after.k, &after.v}) {
      std::fill(values->begin() + static_cast<std::ptrdiff_t>(problem.key(kChanged, 0, 0)), values->end(),
                1e3F);
    }
    after.forward(ctx);
    for (std::size_t i = 0; i < problem.query(kChanged, 0, 0); ++i) ASSERT_EQ(before.y[i], after.y[i]) << i;
    EXPECT_NE(before.y[problem.query(kChanged, 0, 0)], after.y[problem.query(kChanged, 0, 0)]);
  }
}

TEST(Attention, ResultsDoNotDependOnTheNumberOfThreads) {
  const AttentionProblem problem{
      .sequences = 3, .sequence_length = 131, .heads = 4, .kv_heads = 2, .head_dim = 16};
  const auto run = [&](int threads) {
    const test::ThreadCount scope(threads);
    test::LocalContext ctx;
    AttentionCase c(problem);
    c.forward(ctx);
    c.backward(ctx);
    return c;
  };
  const AttentionCase one = run(1);
  for (const int threads : {2, 3, 7}) {
    const AttentionCase many = run(threads);
    EXPECT_EQ(one.y, many.y) << threads;
    EXPECT_EQ(one.log_sum_exp, many.log_sum_exp) << threads;
    EXPECT_EQ(one.dq, many.dq) << threads;
    EXPECT_EQ(one.dk, many.dk) << threads;
    EXPECT_EQ(one.dv, many.dv) << threads;
  }
}

// The last N of L positions, whatever N, against the reference of all L.
TEST(Attention, DecodeMatchesTheReference) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    for (const std::int64_t positions : {1, 5, 128, 129, 200}) {
      AttentionCase c(
          {.sequences = 1, .sequence_length = positions, .heads = 4, .kv_heads = 2, .head_dim = 6});
      const auto expected = test::reference_attention(c.problem, promoted<double>(c.q), promoted<double>(c.k),
                                                      promoted<double>(c.v));
      const AttentionBounds bounds(c, compute);
      for (const std::int64_t count : {std::int64_t{1}, std::int64_t{3}, std::int64_t{70}, positions}) {
        if (count > positions) continue;
        std::fill(c.y.begin(), c.y.end(), std::nanf(""));
        attention_decode(ctx, {.shape = c.shape(),
                               .q = view(c.q, c.queries()).rows(positions - count, positions),
                               .k = view(c.k, c.keys()),
                               .v = view(c.v, c.keys()),
                               .y = view(c.y, c.queries()).rows(positions - count, positions)});
        for (std::size_t i = c.problem.query(positions - count, 0, 0); i < c.y.size(); ++i) {
          ASSERT_NEAR(c.y[i], expected.y[i], bounds.y * expected.y_magnitude[i])
              << count << " of " << positions << " positions, element " << i;
        }
      }
    }
  }
}

// The first key has the largest score by far, thousands of others together as much weight: however many tiles
// of keys follow, the first one's weight stays what it is. Factors are exact in bf16, and so is its weight.
TEST(Attention, WeightsDoNotDriftOverManyKeys) {
  constexpr std::int64_t kPositions = 16384;
  constexpr std::int64_t kHeadDim = 16;
  constexpr double kScale = 0.25;
  constexpr double kFirstKey = 16;
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    ctx.compute = compute;
    for (const double query : {5.5, 7.25, 9.125}) {
      const double lower_key = kFirstKey - std::log(kPositions) / (kScale * query);
      const auto other_key = static_cast<float>(bfloat16(static_cast<float>(lower_key)));
      Values<float> k(kPositions * kHeadDim, 0.0F), v(k.size(), 0.0F);
      for (std::size_t j = 0; j < k.size(); j += kHeadDim) k[j] = other_key;
      k[0] = static_cast<float>(kFirstKey);
      v[0] = 1.0F;
      const double score = kScale * query * kFirstKey;
      const double others = (kPositions - 1) * std::exp(kScale * query * (other_key - kFirstKey));
      // Of an exponent: its score, the maximum and their difference; then exp (4 u), and sums of tiles of 64.
      const double bound =
          (4 * score + 8) * AttentionBounds::kRoundoff + test::dot_bound(kPositions / 64 + 64, 1.0);
      for (const std::int64_t new_positions : {1, 20}) {  // of which the last one is looked at
        Values<float> q(new_positions * kHeadDim, 0.0F), y(q.size());
        for (std::size_t i = 0; i < q.size(); i += kHeadDim) q[i] = static_cast<float>(query);
        attention_decode(ctx, {.shape = {.heads = 1, .kv_heads = 1, .head_dim = kHeadDim},
                               .q = view(q, {new_positions, kHeadDim}),
                               .k = view(k, {kPositions, kHeadDim}),
                               .v = view(v, {kPositions, kHeadDim}),
                               .y = view(y, {new_positions, kHeadDim})});
        EXPECT_NEAR(y[y.size() - kHeadDim] * (1 + others), 1, bound)
            << name_of(compute) << ", query " << query << ", " << new_positions << " new positions";
      }
    }
  }
}

TEST(Attention, ZeroTokens) {
  test::LocalContext ctx;
  AttentionCase c({.sequences = 0, .sequence_length = 0, .heads = 2, .kv_heads = 1, .head_dim = 4});
  EXPECT_NO_THROW(c.forward(ctx));
  EXPECT_NO_THROW(c.backward(ctx));
  const Values<float> cache(5 * 4);
  EXPECT_NO_THROW(attention_decode(ctx, {.shape = c.shape(),
                                         .q = view(c.q, {0, 8}),
                                         .k = view(cache, {5, 4}),
                                         .v = view(cache, {5, 4}),
                                         .y = view(c.y, {0, 8})}));
}

TEST(Attention, RefusesWhatDoesNotFit) {
  test::LocalContext ctx;
  const AttentionProblem problem{
      .sequences = 2, .sequence_length = 3, .heads = 4, .kv_heads = 2, .head_dim = 4};
  AttentionCase partial_sequence(problem);
  partial_sequence.problem.sequences = 1;
  partial_sequence.problem.sequence_length = 6;
  EXPECT_NO_THROW(partial_sequence.forward(ctx));
  AttentionForwardArgs args{.shape = partial_sequence.shape(),
                            .sequence_length = 4,
                            .causal = true,
                            .padding = {},
                            .q = view(partial_sequence.q, {6, 16}),
                            .k = view(partial_sequence.k, {6, 8}),
                            .v = view(partial_sequence.v, {6, 8}),
                            .y = view(partial_sequence.y, {6, 16}),
                            .log_sum_exp = view(partial_sequence.log_sum_exp, {6, 4})};
  EXPECT_THROW(attention_forward(ctx, args), Error) << "6 tokens are no sequences of 4";
  args.sequence_length = 3;
  const std::vector<std::uint8_t> short_padding(5);
  args.padding = view(short_padding, {5});
  EXPECT_THROW(attention_forward(ctx, args), Error) << "5 marks for 6 tokens";
  args.padding = {};
  args.shape.kv_heads = 3;
  EXPECT_THROW(attention_forward(ctx, args), Error) << "4 heads can't share 3";
  args.shape.kv_heads = 1;
  EXPECT_THROW(attention_forward(ctx, args), Error) << "k is too wide";
  args.shape.kv_heads = 0;
  EXPECT_THROW(attention_forward(ctx, args), Error);
  EXPECT_THROW(attention_decode(ctx, {.shape = partial_sequence.shape(),
                                      .q = view(partial_sequence.q, {6, 16}),
                                      .k = view(partial_sequence.k, {6, 8}).rows(0, 5),
                                      .v = view(partial_sequence.v, {6, 8}).rows(0, 5),
                                      .y = view(partial_sequence.y, {6, 16})}),
               Error)
      << "more queries than keys";
}

}  // namespace
}  // namespace conclave
