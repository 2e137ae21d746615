#include "trainer/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "comm/self/self_communicator.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

// The tokens that `draws` draws give, by how often.
std::vector<std::int64_t> histogram(const std::vector<float>& logits, const SamplingOptions& options,
                                    std::uint64_t draws) {
  std::vector<std::int64_t> counts(logits.size());
  for (std::uint64_t i = 0; i < draws; ++i)
    ++counts[static_cast<std::size_t>(sample_token(logits, options, i))];
  return counts;
}

std::set<std::size_t> drawn_tokens(const std::vector<float>& logits, const SamplingOptions& options) {
  const std::vector<std::int64_t> counts = histogram(logits, options, 2000);
  std::set<std::size_t> tokens;
  for (std::size_t token = 0; token < counts.size(); ++token) {
    if (counts[token] > 0) tokens.insert(token);
  }
  return tokens;
}

// Counts follow the binomial distributions of `probabilities`.
void expect_frequencies(const std::vector<std::int64_t>& counts, const std::vector<double>& probabilities) {
  double draws = 0;
  for (const std::int64_t count : counts) draws += static_cast<double>(count);
  for (std::size_t token = 0; token < counts.size(); ++token) {
    const double p = probabilities[token];
    EXPECT_NEAR(static_cast<double>(counts[token]), draws * p, 5 * std::sqrt(draws * p * (1 - p)))
        << "token " << token;
  }
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> probabilities;
  double sum = 0;
  for (const float logit : logits) sum += probabilities.emplace_back(std::exp(logit / temperature));
  for (double& probability : probabilities) probability /= sum;
  return probabilities;
}

// Probabilities 0.4, 0.1, 0.2, 0.25, 0.05.
const std::vector<float> kLogits = {std::log(8.0F), std::log(2.0F), std::log(4.0F), std::log(5.0F), 0.0F};

TEST(SampleToken, TemperatureZeroTakesTheLargestAndOfEqualOnesTheFirst) {
  for (std::uint64_t index = 0; index < 20; ++index) {
    EXPECT_EQ(sample_token(std::vector{1.0F, 3.0F, 2.0F}, {.temperature = 0}, index), 1);
    EXPECT_EQ(sample_token(std::vector{1.0F, 3.0F, 3.0F, -1.0F, 3.0F}, {.temperature = 0}, index), 1);
    EXPECT_EQ(sample_token(std::vector(7, 0.5F), {.temperature = 0}, index), 0);
  }
}

TEST(SampleToken, FrequenciesFollowTheProbabilities) {
  for (const double temperature : {1.0, 0.5, 3.0}) {
    SCOPED_TRACE(temperature);
    expect_frequencies(histogram(kLogits, {.temperature = temperature, .seed = 4}, 20000),
                       softmax(kLogits, temperature));
  }
}

TEST(SampleToken, TopKKeepsTheMostProbable) {
  EXPECT_EQ(drawn_tokens(kLogits, {.top_k = 0}), (std::set<std::size_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_k = 1}), (std::set<std::size_t>{0}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_k = 3}), (std::set<std::size_t>{0, 2, 3}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_k = 99}), (std::set<std::size_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn_tokens(std::vector(4, 0.0F), {.top_k = 2}), (std::set<std::size_t>{0, 1})) << "ties";
  expect_frequencies(histogram(kLogits, {.top_k = 3}, 20000), {8.0 / 17, 0, 4.0 / 17, 5.0 / 17, 0});
}

TEST(SampleToken, TopPKeepsTheMostProbableThatReachTheSum) {
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 1.0}), (std::set<std::size_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.97}), (std::set<std::size_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.93}), (std::set<std::size_t>{0, 1, 2, 3}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.7}), (std::set<std::size_t>{0, 2, 3}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.6}), (std::set<std::size_t>{0, 3}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.3}), (std::set<std::size_t>{0}));
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.0}), (std::set<std::size_t>{0})) << "one is always kept";
  expect_frequencies(histogram(kLogits, {.top_p = 0.7}, 20000), {8.0 / 17, 0, 4.0 / 17, 5.0 / 17, 0});
  // Of what top_k leaves: 8/17 + 5/17 reach 0.75, and so do 8/20 + 5/20 + 4/20 of all.
  EXPECT_EQ(drawn_tokens(kLogits, {.top_p = 0.75, .top_k = 3}), (std::set<std::size_t>{0, 3}));
}

TEST(SampleToken, IsAPureFunctionOfSeedAndIndex) {
  const std::vector<std::int64_t> first = histogram(kLogits, {.seed = 1}, 200);
  EXPECT_EQ(histogram(kLogits, {.seed = 1}, 200), first);
  bool seeds_differ = false;
  bool indices_differ = false;
  for (std::uint64_t i = 0; i < 50; ++i) {
    const std::int32_t token = sample_token(kLogits, {.seed = 1}, i);
    EXPECT_EQ(sample_token(kLogits, {.seed = 1}, i), token);
    seeds_differ |= sample_token(kLogits, {.seed = 2}, i) != token;
    indices_differ |= sample_token(kLogits, {.seed = 1}, i + 1) != token;
  }
  EXPECT_TRUE(seeds_differ);
  EXPECT_TRUE(indices_differ);
}

class GenerateTest : public testing::Test {
 protected:
  static config::Experiment experiment() {
    config::Experiment experiment = test::tiny_experiment("");
    experiment.mutable_model()->set_max_seq(kMaxSeq);
    experiment.mutable_model()->set_init_std(0.5);  // so that the prompt matters
    return experiment;
  }
  std::vector<std::int32_t> generated(const std::vector<std::int32_t>& prompt, std::int64_t count,
                                      const SamplingOptions& options) {
    std::vector<std::int32_t> tokens;
    generate({.model = model_,
              .grid = grid_,
              .max_seq = kMaxSeq,
              .prompt = prompt,
              .count = count,
              .sampling = options},
             [&](std::int32_t token) { tokens.push_back(token); });
    return tokens;
  }
  // The most probable token after `context`, computed from nothing.
  std::int32_t most_probable(const std::vector<std::int32_t>& context) {
    Arena arena;
    Context ctx{.arena = &arena, .grid = &grid_, .training = false};
    std::vector<KvCache> caches = model_.make_caches(kMaxSeq);
    const auto positions = static_cast<std::int64_t>(context.size());
    const auto logits =
        model_.next_token_logits(ctx, tensor_view(std::span(context), {positions}), caches).values<float>();
    return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
  }

  static constexpr std::int64_t kMaxSeq = 10;
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  ProcessGrid grid_{*alone_, 1};
  LanguageModel model_{experiment(), grid_};
};

TEST_F(GenerateTest, GoesOnBeyondItsWindow) {
  for (const std::size_t prompt_length : {1, 3, 10, 11, 25}) {
    SCOPED_TRACE(prompt_length);
    std::vector<std::int32_t> prompt;
    for (std::size_t i = 0; i < prompt_length; ++i) prompt.push_back(static_cast<std::int32_t>(i * 37 % 256));
    const std::vector<std::int32_t> tokens = generated(prompt, 23, {.temperature = 0});
    ASSERT_EQ(tokens.size(), 23U);

    // The context grows to max_seq, and goes on from its last half.
    std::vector<std::int32_t> history = prompt;
    std::size_t begin = 0;
    for (const std::int32_t token : tokens) {
      if (history.size() - begin > kMaxSeq) begin = history.size() - kMaxSeq / 2;
      EXPECT_EQ(token, most_probable({history.begin() + static_cast<std::ptrdiff_t>(begin), history.end()}))
          << "token " << history.size();
      history.push_back(token);
    }
  }
}

TEST_F(GenerateTest, TheSameSeedWritesTheSameText) {
  const auto first = generated({1, 2, 3}, 30, {.seed = 5});
  EXPECT_EQ(generated({1, 2, 3}, 30, {.seed = 5}), first);
  EXPECT_NE(generated({1, 2, 3}, 30, {.seed = 6}), first);
  EXPECT_NE(generated({200, 2, 3}, 30, {.seed = 5}), first);
}

TEST_F(GenerateTest, NeedsAPrompt) {
  EXPECT_THROW(generated({}, 1, {}), Error);
  EXPECT_TRUE(generated({1}, 0, {}).empty());
}

}  // namespace
}  // namespace conclave
