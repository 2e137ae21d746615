#include "layers/embedding/embedding.h"

#include "layers/ops/embedding/embedding.h"
#include "tests/support/operator_test.h"
#include "tests/support/tolerance.h"

namespace conclave {
namespace {

using namespace test;

constexpr std::int32_t kVocabulary = 11;

struct Case {
  std::int64_t tokens, width;
};

class EmbeddingTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Sizes, EmbeddingTest,
                         testing::Values(Case{0, 3}, Case{1, 1}, Case{9, 5}, Case{40, 130}));

// The module, which is the operator and its parameter.
TEST_P(EmbeddingTest, GathersAndScatters) {
  const auto [count, width] = GetParam();
  const auto columns = static_cast<std::size_t>(width);
  const auto tokens = random_tokens(count, "tokens", kVocabulary);
  const auto dx = random_values(count * width, "dx");
  Embedding layer(kVocabulary, width, 0.02, 42);
  std::vector<Parameter*> parameters;
  layer.collect_parameters(parameters);
  ASSERT_EQ(parameters, std::vector<Parameter*>{&layer.weight()});
  EXPECT_EQ(layer.weight().name(), "embedding.weight");
  LocalContext ctx;
  if (ctx.on_gpu()) layer.weight().move_to(ctx.gpu->stream());

  const TensorView x = layer.forward(ctx, view(tokens, {count}));
  ASSERT_EQ(x.shape(), (Shape{count, width}));
  const auto weight = copy_of(layer.weight().value());
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const auto token = static_cast<std::size_t>(tokens[i / columns]);
    ASSERT_EQ(x.data<float>()[i], weight[token * columns + i % columns]);
  }

  const auto before = random_values(kVocabulary * width, "before");
  std::ranges::copy(before, layer.weight().gradient().data<float>());
  layer.backward(ctx, view(dx, {count, width}));
  auto expected = promoted<double>(before);
  auto magnitude = expected;
  for (double& value : magnitude) value = std::abs(value);
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const std::size_t at = static_cast<std::size_t>(tokens[i / columns]) * columns + i % columns;
    expected[at] += dx[i];
    magnitude[at] += std::abs(dx[i]);
  }
  std::vector<double> bound;
  for (const double value : magnitude) bound.push_back(dot_bound(static_cast<double>(count), value));
  expect_within(copy_of(layer.weight().gradient()), expected, bound, "dweight");
}

TEST(Embedding, GradientDoesNotDependOnTheNumberOfThreads) {
  constexpr std::int64_t kTokens = 500;
  constexpr std::int64_t kWidth = 200;
  const auto tokens = random_tokens(kTokens, "tokens", 3);  // many rows meet in each
  const auto dx = random_values(kTokens * kWidth, "dx");
  LocalContext ctx;
  const auto dweight_with = [&](int threads) {
    const ThreadCount scope(threads);
    Values<float> dweight(3 * kWidth);
    embedding_backward(ctx,
                       {view(dx, {kTokens, kWidth}), view(tokens, {kTokens}), view(dweight, {3, kWidth})});
    return dweight;
  };
  EXPECT_EQ(dweight_with(1), dweight_with(2));
  EXPECT_EQ(dweight_with(1), dweight_with(5));
}

TEST(Embedding, RefusesATokenOutsideTheVocabulary) {
  Embedding layer(kVocabulary, 2, 0.02, 42);
  LocalContext ctx;
  for (const std::int32_t wrong : {-1, kVocabulary}) {
    const std::vector<std::int32_t> tokens{0, wrong};
    EXPECT_THROW(layer.forward(ctx, view(tokens, {2})), Error);
  }
}

}  // namespace
}  // namespace conclave
