// One attention problem with random operands, against its reference within what rounding can do.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "layers/ops/attention/attention.h"
#include "tests/support/operator_test.h"
#include "tests/support/reference/attention.h"
#include "tests/support/tolerance.h"

namespace conclave::test {

inline void PrintTo(const AttentionProblem& problem, std::ostream* out) {
  *out << problem.sequences << " x " << problem.sequence_length << ", heads " << problem.heads << "/"
       << problem.kv_heads << " of " << problem.head_dim << (problem.causal ? ", causal" : ", not causal")
       << (problem.padding.empty() ? "" : ", padding");
}

// Operands and results of the operator; results start as NaN, so that what isn't assigned shows.
struct AttentionCase {
  AttentionProblem problem;
  Values<float> q, k, v, dy, y, log_sum_exp, dq, dk, dv;

  explicit AttentionCase(const AttentionProblem& p, float score_scale = 1.0F)
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
struct AttentionBounds {
  static constexpr double kRoundoff = 0.5 * std::numeric_limits<float>::epsilon();
  static constexpr double kBf16Roundoff = 0x1p-8;
  // Weights below the smallest normal number, 1.2e-38, become 0: a few hundred of them, times factors up to
  // 1e5.
  static constexpr double kUnderflow = 1e-30;

  double weight = 0.0;       // relative error of a softmax weight, and absolute error of log_sum_exp
  double y = 0.0;            // of y, relative to y's magnitude
  double gradient = 0.0;     // of dq, dk, dv, relative to their magnitudes
  double log_sum_exp = 0.0;  // absolute

  explicit AttentionBounds(const AttentionCase& c, DType compute = DType::kFloat32,
                           Factors factors = Factors::kAny) {
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

inline void expect_attention_near(const Values<float>& actual, const std::vector<double>& expected,
                                  double relative_bound, const std::vector<double>& magnitude,
                                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound = relative_bound * magnitude[i] + AttentionBounds::kUnderflow;
    ASSERT_NEAR(actual[i], expected[i], bound) << what << "[" << i << "]";
  }
}

inline void expect_attention(const AttentionCase& c, DType compute = DType::kFloat32,
                             Factors factors = Factors::kAny) {
  const AttentionBounds bounds(c, compute, factors);
  const auto expected =
      reference_attention(c.problem, promoted<double>(c.q), promoted<double>(c.k), promoted<double>(c.v));
  expect_attention_near(c.y, expected.y, bounds.y, expected.y_magnitude, "y");
  expect_attention_near(c.log_sum_exp, expected.log_sum_exp, bounds.log_sum_exp,
                        std::vector<double>(c.log_sum_exp.size(), 1.0), "log_sum_exp");
}

inline void expect_attention_gradients(const AttentionCase& c, DType compute = DType::kFloat32,
                                       Factors factors = Factors::kAny) {
  const AttentionBounds bounds(c, compute, factors);
  const auto expected = reference_attention_backward(c.problem, promoted<double>(c.q), promoted<double>(c.k),
                                                     promoted<double>(c.v), promoted<double>(c.dy));
  expect_attention_near(c.dq, expected.dq.value, bounds.gradient, expected.dq.magnitude, "dq");
  expect_attention_near(c.dk, expected.dk.value, bounds.gradient, expected.dk.magnitude, "dk");
  expect_attention_near(c.dv, expected.dv.value, bounds.gradient, expected.dv.magnitude, "dv");
}

}  // namespace conclave::test
