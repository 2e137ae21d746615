#include "layers/ops/attention/attention.h"

#include <gtest/gtest.h>

#include <cstring>
#include <ostream>
#include <string>

#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/attention.h"
#include "tests/support/tolerance.h"

namespace conclave {

namespace test {
void PrintTo(const AttentionProblem& problem, std::ostream* out) {
  *out << problem.sequences << " x " << problem.sequence_length << ", heads " << problem.heads << "/"
       << problem.kv_heads << " of " << problem.head_dim << (problem.causal ? ", causal" : ", not causal")
       << (problem.padding.empty() ? "" : ", padding");
}
}  // namespace test

namespace {

using test::AttentionProblem;
using test::dot_bound;
using test::promoted;
using test::random_values;
using test::Values;
using test::view;

constexpr double kRoundoff = 0.5 * std::numeric_limits<float>::epsilon();
constexpr double kBf16Roundoff = 0x1p-8;
// Weights below the smallest normal number, 1.2e-38, become 0: a few hundred of them,
// times factors up to 1e5.
constexpr double kUnderflow = 1e-30;

// Operands and results of the operator; results start as NaN, so that what isn't assigned shows.
struct Case {
  AttentionProblem problem;
  Values<float> q, k, v, dy, y, log_sum_exp, dq, dk, dv;

  explicit Case(const AttentionProblem& p, float score_scale = 1.0F)
      : problem(p),
        q(random_values(static_cast<std::int64_t>(p.query_elements()), "q", score_scale)),
        k(random_values(static_cast<std::int64_t>(p.key_elements()), "k")),
        v(random_values(static_cast<std::int64_t>(p.key_elements()), "v")),
        dy(random_values(static_cast<std::int64_t>(p.query_elements()), "dy")),
        y(p.query_elements(), std::nanf("")),
        log_sum_exp(static_cast<std::size_t>(p.tokens() * p.heads), std::nanf("")),
        dq(q.size(), std::nanf("")),
        dk(k.size(), std::nanf("")),
        dv(v.size(), std::nanf("")) {}

  AttentionShape shape() const { return {problem.heads, problem.kv_heads, problem.head_dim}; }
  Shape queries() const { return {problem.tokens(), problem.heads * problem.head_dim}; }
  Shape keys() const { return {problem.tokens(), problem.kv_heads * problem.head_dim}; }
  ConstTensorView padding() const {
    return problem.padding.empty() ? ConstTensorView() : view(problem.padding, {problem.tokens()});
  }
  Shape rows() const { return {problem.tokens(), problem.heads}; }

  void round_operands_to_bf16() {
    for (auto* operand : {&q, &k, &v, &dy}) {
      for (float& value : *operand) value = static_cast<float>(bfloat16(value));
    }
  }

  void forward(Context& ctx) {
    attention_forward(ctx, {.shape = shape(),
                            .sequence_length = problem.sequence_length,
                            .causal = problem.causal,
                            .padding = padding(),
                            .q = view(q, queries()),
                            .k = view(k, keys()),
                            .v = view(v, keys()),
                            .y = view(y, queries()),
                            .log_sum_exp = view(log_sum_exp, rows())});
  }
  void backward(Context& ctx) {
    attention_backward(ctx, {.shape = shape(),
                             .sequence_length = problem.sequence_length,
                             .causal = problem.causal,
                             .padding = padding(),
                             .q = view(q, queries()),
                             .k = view(k, keys()),
                             .v = view(v, keys()),
                             .y = view(y, queries()),
                             .log_sum_exp = view(log_sum_exp, rows()),
                             .dy = view(dy, queries()),
                             .dq = view(dq, queries()),
                             .dk = view(dk, keys()),
                             .dv = view(dv, keys())});
  }
};

// Whether operands are exact in bf16. If they are, nothing but the weights and their gradients is rounded,
// and the bounds are tight enough to miss a single key.
enum class Factors : char { kAny, kExactInBf16 };

// What rounding can do, to first order in the unit roundoff, relative to sums of magnitudes.
struct Bounds {
  double weight = 0.0;       // relative error of a softmax weight, and absolute error of log_sum_exp
  double y = 0.0;            // of y, relative to y's magnitude
  double gradient = 0.0;     // of dq, dk, dv, relative to their magnitudes
  double log_sum_exp = 0.0;  // absolute

  explicit Bounds(const Case& c, DType compute = DType::kFloat32, Factors factors = Factors::kAny) {
    const double weight_factor = compute == DType::kBFloat16 ? kBf16Roundoff : 0.0;  // p and ds
    const double factor = factors == Factors::kAny ? weight_factor : 0.0;            // q, k, v, dy
    const AttentionProblem& p = c.problem;
    double score = 0.0;  // largest sum of magnitudes of a score
    for (std::int64_t t = 0; t < p.tokens(); ++t) {
      for (std::int64_t j = 0; j < p.tokens(); ++j) {
        for (std::int64_t h = 0; h < p.heads && p.sees(t, j); ++h) {
          double sum = 0.0;
          for (std::int64_t d = 0; d < p.head_dim; ++d)
            sum += std::abs(c.q[p.query(t, h, d)] * c.k[p.key(j, h, d)]);
          score = std::max(score, sum / std::sqrt(static_cast<double>(p.head_dim)));
        }
      }
    }
    const auto s = static_cast<double>(p.sequence_length);
    const auto hd = static_cast<double>(p.head_dim);
    const auto group = static_cast<double>(p.group());
    const double blocks = s / 64 + 1;  // the running maximum may change once a block
    // A score: its dot product and scaling, and the subtraction of the maximum (twice as large at most).
    const double score_error = dot_bound(hd, score, 3) + 2.0 * score * kRoundoff + 2.0 * score * factor;
    // Numerator and denominator; each change of the maximum costs one more subtraction, exp (4 u) and
    // product. The denominator is a sum of S.
    weight = 2.0 * (score_error + blocks * (2.0 * score + 6.0) * kRoundoff) + dot_bound(s, 1.0);
    log_sum_exp = weight + (score + std::log(s) + 2.0) * kRoundoff;
    y = weight + dot_bound(s, 1.0, blocks) + weight_factor + factor;  // p and v
    // p comes from log_sum_exp; ds needs dp (a sum of hd) and dy . y (a sum of hd over y's own error); dk and
    // dv sum over S positions of each query head of the group. In bf16: dy and v of dp, ds, and q or k.
    gradient =
        (weight + log_sum_exp) + y + dot_bound(2 * hd + s * group, 1.0, 10) + weight_factor + 3.0 * factor;
  }
};

void expect_near(const Values<float>& actual, const std::vector<double>& expected, double relative_bound,
                 const std::vector<double>& magnitude, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound = relative_bound * magnitude[i] + kUnderflow;
    ASSERT_NEAR(actual[i], expected[i], bound) << what << "[" << i << "]";
  }
}

void expect_forward(const Case& c, DType compute = DType::kFloat32, Factors factors = Factors::kAny) {
  const Bounds bounds(c, compute, factors);
  const auto expected = test::reference_attention(c.problem, promoted<double>(c.q), promoted<double>(c.k),
                                                  promoted<double>(c.v));
  expect_near(c.y, expected.y, bounds.y, expected.y_magnitude, "y");
  expect_near(c.log_sum_exp, expected.log_sum_exp, bounds.log_sum_exp,
              std::vector<double>(c.log_sum_exp.size(), 1.0), "log_sum_exp");
}

void expect_backward(const Case& c, DType compute = DType::kFloat32, Factors factors = Factors::kAny) {
  const Bounds bounds(c, compute, factors);
  const auto expected = test::reference_attention_backward(
      c.problem, promoted<double>(c.q), promoted<double>(c.k), promoted<double>(c.v), promoted<double>(c.dy));
  expect_near(c.dq, expected.dq.value, bounds.gradient, expected.dq.magnitude, "dq");
  expect_near(c.dk, expected.dk.value, bounds.gradient, expected.dk.magnitude, "dk");
  expect_near(c.dv, expected.dv.value, bounds.gradient, expected.dv.magnitude, "dv");
}

// The reference's backward is the derivative of its forward: d/dx f = Im f(x + ih) / h, exact to rounding
// (Squire and Trapp, 1998).
TEST(AttentionReference, BackwardIsTheComplexStepDerivative) {
  for (const bool causal : {true, false}) {
    const Case c({.sequences = 2,
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
    Case c(GetParam());
    c.forward(ctx);
    expect_forward(c, compute);
    c.backward(ctx);
    expect_backward(c, compute);
    EXPECT_EQ(ctx.memory.used_bytes(), 0U) << "scratch must be given back";
  }
}

TEST_P(AttentionSizes, Bf16ProductsOfExactFactorsMissNothing) {
  test::LocalContext ctx;
  ctx.compute = compute_types(ctx).back();
  if (ctx.compute != DType::kBFloat16) GTEST_SKIP() << "this processor has no AVX512-BF16";
  Case c(GetParam());
  c.round_operands_to_bf16();
  c.forward(ctx);
  expect_forward(c, ctx.compute, Factors::kExactInBf16);
  c.backward(ctx);
  expect_backward(c, ctx.compute, Factors::kExactInBf16);
}

// Operands are rounded before they meet.
TEST(Attention, Bf16ProductsSeeRoundedFactors) {
  test::LocalContext ctx;
  ctx.compute = compute_types(ctx).back();
  if (ctx.compute != DType::kBFloat16) GTEST_SKIP() << "this processor has no AVX512-BF16";
  Case c({.sequences = 2, .sequence_length = 70, .heads = 2, .kv_heads = 1, .head_dim = 20});
  Case rounded = c;
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
    Case before(problem);
    before.forward(ctx);
    before.backward(ctx);
    Case after(problem);
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
    Case c({.sequences = 1, .sequence_length = 200, .heads = 2, .kv_heads = 1, .head_dim = 8}, 100.0F);
    c.forward(ctx);
    expect_forward(c, compute);
    c.backward(ctx);
    expect_backward(c, compute);
  }
}

TEST(Attention, CausalResultsIgnoreTheFuture) {
  test::LocalContext ctx;
  for (const DType compute : compute_types(ctx)) {
    SCOPED_TRACE(name_of(compute));
    ctx.compute = compute;
    const AttentionProblem problem{
        .sequences = 1, .sequence_length = 140, .heads = 2, .kv_heads = 1, .head_dim = 4};
    Case before(problem);
    before.forward(ctx);
    Case after(problem);
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
    Case c(problem);
    c.forward(ctx);
    c.backward(ctx);
    return c;
  };
  const Case one = run(1);
  for (const int threads : {2, 3, 7}) {
    const Case many = run(threads);
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
      Case c({.sequences = 1, .sequence_length = positions, .heads = 4, .kv_heads = 2, .head_dim = 6});
      const auto expected = test::reference_attention(c.problem, promoted<double>(c.q), promoted<double>(c.k),
                                                      promoted<double>(c.v));
      const Bounds bounds(c, compute);
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

TEST(Attention, ZeroTokens) {
  test::LocalContext ctx;
  Case c({.sequences = 0, .sequence_length = 0, .heads = 2, .kv_heads = 1, .head_dim = 4});
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
  Case partial_sequence(problem);
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
