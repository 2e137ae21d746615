#include "layers/loss/language_model_head.h"

#include "tests/support/operator_test.h"
#include "tests/support/reference/cross_entropy.h"
#include "tests/support/reference/linear.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;
using Complex = std::complex<double>;

constexpr float kScale = 0.125F;

struct Case {
  std::int64_t tokens, width, vocabulary;
};

class LinearCrossEntropyTest : public testing::TestWithParam<Case> {
 protected:
  std::int64_t tokens = GetParam().tokens;
  std::int64_t width = GetParam().width;
  std::int64_t vocabulary = GetParam().vocabulary;
  Shape h_shape{tokens, width};
  Shape weight_shape{vocabulary, width};
  Values<float> h = random_values(tokens * width, "h");
  Values<float> weight = random_values(vocabulary * width, "weight");
  std::vector<std::int32_t> targets = random_tokens(tokens, "targets", static_cast<std::int32_t>(vocabulary));
  LocalContext ctx;

  template <class T>
  std::vector<T> losses_at(const std::vector<T>& h_at, const std::vector<T>& weight_at) const {
    return reference::cross_entropy(reference::linear(h_at, weight_at, static_cast<std::size_t>(width)),
                                    targets);
  }

  // Bounds on the errors of each result, from those of the logits.
  struct Bounds {
    std::vector<double> losses;   // [T]
    std::vector<double> dh;       // [T, D]
    std::vector<double> dweight;  // [V, D]
  };
  Bounds bounds(const Values<float>& dweight_before) const {
    const auto rows = static_cast<std::size_t>(tokens);
    const auto columns = static_cast<std::size_t>(width);
    const auto entries = static_cast<std::size_t>(vocabulary);
    const double unit = 0.5 * std::numeric_limits<float>::epsilon();
    const auto logits =
        reference::linear(promoted<double>(h), promoted<double>(weight), static_cast<std::size_t>(width));
    Bounds bound{std::vector<double>(rows), std::vector<double>(h.size()),
                 std::vector<double>(weight.size())};
    std::vector<double> dweight_magnitude(weight.size());
    for (std::size_t t = 0; t < rows; ++t) {
      double logit_error = 0;  // the largest of the row
      double largest = 0;
      double sum = 0;
      for (std::size_t v = 0; v < entries; ++v) {
        double magnitude = 0;
        for (std::size_t d = 0; d < columns; ++d) {
          magnitude += std::abs(static_cast<double>(h[t * columns + d]) * weight[v * columns + d]);
        }
        logit_error = std::max(logit_error, dot_bound(static_cast<double>(width), magnitude));
        largest = std::max(largest, std::abs(logits[t * entries + v]));
        sum += std::exp(logits[t * entries + v]);
      }
      if (targets[t] < 0) continue;
      // Exponents err by the logits' errors, by the maximum's and by the rounding of a difference of two
      // logits; exp has four half-units and the sum one for each entry. The loss is log sum + difference.
      const double relative = 2 * logit_error + unit * (2 * largest + 4 + static_cast<double>(vocabulary));
      bound.losses[t] = relative + 2 * logit_error + unit * std::log(static_cast<double>(vocabulary) + 1) +
                        unit * 4 * largest;
      for (std::size_t v = 0; v < entries; ++v) {
        const bool is_target = targets[t] == static_cast<std::int32_t>(v);
        const double probability = std::exp(logits[t * entries + v]) / sum;
        const double magnitude = kScale * (probability + (is_target ? 1.0 : 0.0));
        // 2: the relative error of an exponential and that of the sum; three roundings.
        const double error = kScale * probability * (2 * relative + 3 * unit) + unit * magnitude;
        for (std::size_t d = 0; d < columns; ++d) {
          const double w = std::abs(weight[v * columns + d]);
          const double x = std::abs(h[t * columns + d]);
          bound.dh[t * columns + d] += error * w + dot_bound(static_cast<double>(vocabulary), magnitude * w);
          bound.dweight[v * columns + d] += error * x;
          dweight_magnitude[v * columns + d] += magnitude * x;
        }
      }
    }
    for (std::size_t i = 0; i < weight.size(); ++i) {
      bound.dweight[i] +=
          dot_bound(static_cast<double>(tokens), dweight_magnitude[i] + std::abs(dweight_before[i]));
    }
    return bound;
  }

  // Complex steps over every element of h and weight are affordable for small cases only.
  void expect_gradients(const Values<float>& dh, const Values<float>& dweight,
                        const Values<float>& dweight_before) const {
    const Values<float> scales(h.size(), kScale);
    const auto loss_by_h = [&](const std::vector<Complex>& at) {
      return weighted_sum(losses_at(at, promoted<Complex>(weight)), scales);
    };
    const auto loss_by_weight = [&](const std::vector<Complex>& at) {
      return weighted_sum(losses_at(promoted<Complex>(h), at), scales);
    };
    auto expected_dweight = complex_step_gradient(loss_by_weight, weight);
    for (std::size_t i = 0; i < weight.size(); ++i) expected_dweight[i] += dweight_before[i];
    const Bounds bound = bounds(dweight_before);
    expect_within(dh, complex_step_gradient(loss_by_h, h), bound.dh, "dh");
    expect_within(dweight, expected_dweight, bound.dweight, "dweight");
  }
};

INSTANTIATE_TEST_SUITE_P(Sizes, LinearCrossEntropyTest,
                         testing::Values(Case{0, 3, 5}, Case{1, 1, 1}, Case{1, 4, 2}, Case{7, 5, 19},
                                         Case{13, 3, 33}, Case{5, 3, 36}, Case{3, 2, 1100}));

TEST_P(LinearCrossEntropyTest, LossesAndGradients) {
  for (std::size_t t = 2; t < targets.size(); t += 3) targets[t] = LinearCrossEntropyArgs::kIgnore;
  const auto before = random_values(vocabulary * width, "before");
  Values<float> losses(targets.size());
  Values<float> dh(h.size());
  auto dweight = before;
  const auto result = linear_cross_entropy(ctx, {.h = view(h, h_shape),
                                                 .weight = view(weight, weight_shape),
                                                 .targets = view(targets, {tokens}),
                                                 .losses = view(losses, {tokens}),
                                                 .dh = view(dh, h_shape),
                                                 .dweight = view(dweight, weight_shape),
                                                 .scale = kScale});
  const auto expected = losses_at(promoted<double>(h), promoted<double>(weight));
  const Bounds bound = bounds(before);
  expect_within(losses, expected, bound.losses, "losses");
  double loss_sum = 0;
  double loss_sum_bound = 0;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    loss_sum += expected[t];
    loss_sum_bound += bound.losses[t];
  }
  EXPECT_NEAR(result.loss_sum, loss_sum, loss_sum_bound);
  EXPECT_EQ(result.targets, tokens - std::ranges::count(targets, LinearCrossEntropyArgs::kIgnore));
  expect_gradients(dh, dweight, before);
  const std::size_t loss_bytes = ctx.on_gpu() ? 256 : 0;  // of the sum that is read later, aligned
  EXPECT_EQ(ctx.memory.used_bytes(), loss_bytes) << "scratch is given back";

  const auto evaluated = linear_cross_entropy(
      ctx, {.h = view(h, h_shape), .weight = view(weight, weight_shape), .targets = view(targets, {tokens})});
  EXPECT_EQ(evaluated.loss_sum, result.loss_sum);
  EXPECT_EQ(evaluated.targets, result.targets);
}

TEST_P(LinearCrossEntropyTest, HeadOwnsItsWeight) {
  LanguageModelHead head(vocabulary, width, 0.02, 42);
  std::vector<Parameter*> parameters;
  head.collect_parameters(parameters);
  ASSERT_EQ(parameters.size(), 1U);
  EXPECT_EQ(parameters[0]->name(), "head.weight");
  std::ranges::copy(weight, parameters[0]->mutable_value().data<float>());

  ctx.training = false;
  const auto evaluated = head.forward(ctx, view(h, h_shape), view(targets, {tokens}), kScale);
  EXPECT_EQ(copy_of(parameters[0]->gradient()), Values<float>(weight.size())) << "evaluation has none";
  ctx.training = true;
  const auto trained = head.forward(ctx, view(h, h_shape), view(targets, {tokens}), kScale);
  EXPECT_EQ(evaluated.loss_sum, trained.loss_sum);
  const auto dh = copy_of(head.backward(ctx));
  expect_gradients(dh, copy_of(parameters[0]->gradient()), Values<float>(weight.size()));
}

TEST_P(LinearCrossEntropyTest, HeadSharesATiedWeight) {
  Parameter shared("embedding.weight", weight_shape);
  std::ranges::copy(weight, shared.mutable_value().data<float>());
  const auto before = random_values(vocabulary * width, "before");  // the other layer's part
  std::ranges::copy(before, shared.gradient().data<float>());
  LanguageModelHead head(shared);
  std::vector<Parameter*> parameters;
  head.collect_parameters(parameters);
  EXPECT_TRUE(parameters.empty()) << "its owner collects it";

  head.forward(ctx, view(h, h_shape), view(targets, {tokens}), kScale);
  const auto dh = copy_of(head.backward(ctx));
  expect_gradients(dh, copy_of(shared.gradient()), before);
}

TEST_P(LinearCrossEntropyTest, LogitsForGeneration) {
  Parameter shared("embedding.weight", weight_shape);
  std::ranges::copy(weight, shared.mutable_value().data<float>());
  LanguageModelHead head(shared);
  const auto logits = copy_of(head.logits(ctx, view(h, h_shape)));
  const auto columns = static_cast<std::size_t>(width);
  const auto absolute = [](Values<float> values) {
    for (float& value : values) value = std::abs(value);
    return promoted<double>(values);
  };
  auto bound = reference::linear(absolute(h), absolute(weight), columns);
  for (double& value : bound) value = dot_bound(static_cast<double>(width), value);
  expect_within(logits, reference::linear(promoted<double>(h), promoted<double>(weight), columns), bound,
                "logits");
}

// More rows than a chunk holds: the same as the rows taken in two calls, to the rounding of dweight's sum.
TEST(LinearCrossEntropy, ChunksAddUp) {
  constexpr std::int64_t kTokens = 2500;  // chunks of at most 1024 rows
  constexpr std::int64_t kWidth = 3;
  constexpr std::int64_t kVocabulary = 6;
  const auto h = random_values(kTokens * kWidth, "h");
  const auto weight = random_values(kVocabulary * kWidth, "weight");
  const auto targets = random_tokens(kTokens, "targets", kVocabulary);
  const ConstTensorView h_view = view(h, {kTokens, kWidth});
  const ConstTensorView targets_view = view(targets, {kTokens});
  LocalContext ctx;
  const auto run = [&](std::int64_t begin, std::int64_t end, Values<float>& dh, Values<float>& dweight) {
    return linear_cross_entropy(ctx, {.h = h_view.rows(begin, end),
                                      .weight = view(weight, {kVocabulary, kWidth}),
                                      .targets = targets_view.rows(begin, end),
                                      .dh = view(dh, {kTokens, kWidth}).rows(begin, end),
                                      .dweight = view(dweight, {kVocabulary, kWidth}),
                                      .scale = kScale});
  };
  Values<float> dh(h.size());
  Values<float> dweight(weight.size());
  const auto whole = run(0, kTokens, dh, dweight);
  Values<float> dh_of_pieces(h.size());
  Values<float> dweight_of_pieces(weight.size());
  double loss_sum = 0;
  for (std::int64_t begin = 0; begin < kTokens; begin += 500) {
    loss_sum += run(begin, begin + 500, dh_of_pieces, dweight_of_pieces).loss_sum;
  }
  EXPECT_EQ(whole.targets, kTokens);
  // The losses are of order 1 and each carries the roundings of a row in either run.
  const double row_bound = 2 * dot_bound(kWidth + kVocabulary + 16, 16.0);
  EXPECT_NEAR(whole.loss_sum, loss_sum, kTokens * row_bound);
  std::vector<double> magnitude(weight.size());
  for (std::size_t t = 0; t < targets.size(); ++t) {
    for (std::size_t i = 0; i < weight.size(); ++i)
      magnitude[i] += 2 * kScale * std::abs(h[t * kWidth + i % kWidth]);
  }
  std::vector<double> bound;
  for (const double value : magnitude) bound.push_back(2 * dot_bound(kTokens + 50, value));
  expect_within(dweight, promoted<double>(dweight_of_pieces), bound, "dweight");
  expect_within(dh, promoted<double>(dh_of_pieces), std::vector<double>(h.size(), 4 * kScale * row_bound),
                "dh");
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const Values<float> h{1.0F};
  const Values<float> weight{3e4F, -3e4F};
  const std::vector<std::int32_t> targets{1};
  Values<float> dh(1);
  Values<float> dweight(2);
  LocalContext ctx;
  const auto result = linear_cross_entropy(ctx, {.h = view(h, {1, 1}),
                                                 .weight = view(weight, {2, 1}),
                                                 .targets = view(targets, {1}),
                                                 .dh = view(dh, {1, 1}),
                                                 .dweight = view(dweight, {2, 1})});
  EXPECT_EQ(result.loss_sum, 6e4);
  EXPECT_EQ(dh[0], 6e4F);
  EXPECT_EQ(dweight, (Values<float>{1.0F, -1.0F}));
}

TEST(LinearCrossEntropy, NothingToPredict) {
  const Values<float> h{1.0F, 2.0F};
  const Values<float> weight{1.0F, 1.0F, 1.0F};
  const std::vector<std::int32_t> targets(2, LinearCrossEntropyArgs::kIgnore);
  Values<float> losses(2, 9.0F);
  Values<float> dh(2, 9.0F);
  Values<float> dweight(3, 9.0F);
  LocalContext ctx;
  const auto result = linear_cross_entropy(ctx, {.h = view(h, {2, 1}),
                                                 .weight = view(weight, {3, 1}),
                                                 .targets = view(targets, {2}),
                                                 .losses = view(losses, {2}),
                                                 .dh = view(dh, {2, 1}),
                                                 .dweight = view(dweight, {3, 1})});
  EXPECT_EQ(result.loss_sum, 0.0);
  EXPECT_EQ(result.targets, 0);
  EXPECT_EQ(losses, Values<float>(2, 0.0F));
  EXPECT_EQ(dh, Values<float>(2, 0.0F));
  EXPECT_EQ(dweight, Values<float>(3, 9.0F));
}

TEST(LinearCrossEntropy, RefusesWrongTargetsAndHalfTheGradients) {
  const Values<float> h(2);
  const Values<float> weight(3);
  Values<float> dh(2);
  LocalContext ctx;
  const auto run = [&](std::int32_t target, TensorView dh_view) {
    const std::vector<std::int32_t> targets{0, target};
    linear_cross_entropy(
        ctx,
        {.h = view(h, {2, 1}), .weight = view(weight, {3, 1}), .targets = view(targets, {2}), .dh = dh_view});
  };
  EXPECT_NO_THROW(run(2, {}));
  EXPECT_NO_THROW(run(LinearCrossEntropyArgs::kIgnore, {}));
  EXPECT_THROW(run(3, {}), Error);
  EXPECT_THROW(run(-2, {}), Error);
  EXPECT_THROW(run(0, view(dh, {2, 1})), Error);
}

}  // namespace
}  // namespace conclave
