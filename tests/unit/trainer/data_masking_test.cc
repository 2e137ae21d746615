// Which tokens are hidden, by what, and that training and evaluation each see what they should.
#include "trainer/data/masking.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "configs/resolve.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/data/dataset.h"

namespace conclave::data {
namespace {

constexpr std::int32_t kMaskToken = 256;

config::Experiment masked_experiment(const std::string& text_path) {
  config::Experiment experiment = test::tiny_experiment(text_path);
  test::apply(experiment, "masked");
  return experiment;
}

TEST(Masking, PredictsAFixedNumber) {
  config::Experiment experiment = masked_experiment("");
  const Masking masking(experiment);  // 15 %
  EXPECT_EQ(masking.predicted(1), 1);
  EXPECT_EQ(masking.predicted(3), 1);
  EXPECT_EQ(masking.predicted(19), 3);
  EXPECT_EQ(masking.predicted(200), 30);
  experiment.mutable_train()->set_mask_fraction(1);
  EXPECT_EQ(Masking(experiment).predicted(19), 19);
}

// Against the shares that the paper gives, within 5 standard deviations.
TEST(Masking, HidesTheWholeSequenceEvenlyAndReplacesAsBertDoes) {
  constexpr std::int64_t S = 20;
  constexpr int kSequences = 8000;
  constexpr std::int32_t kText = 'a';
  const Masking masking(masked_experiment(""));
  std::vector<double> taken(S);
  double masked = 0, kept = 0, random = 0;
  std::map<std::int32_t, int> random_ids;
  std::vector<std::int32_t> tokens(S), targets(S);
  for (int sequence = 0; sequence < kSequences; ++sequence) {
    std::fill(tokens.begin(), tokens.end(), kText);
    masking.apply(RandomStream(1, "mask", static_cast<std::uint64_t>(sequence)), {0, S}, tokens, targets);
    int predicted = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (targets[i] == kIgnoredTarget) {
        ASSERT_EQ(tokens[i], kText);
        continue;
      }
      ASSERT_EQ(targets[i], kText);
      ++predicted;
      ++taken[i];
      if (tokens[i] == kMaskToken) {
        ++masked;
      } else if (tokens[i] == kText) {
        ++kept;
      } else {
        ++random;
        ++random_ids[tokens[i]];
        ASSERT_TRUE(tokens[i] >= 0 && tokens[i] < kMaskToken);
      }
    }
    ASSERT_EQ(predicted, 3);
  }
  const auto expect_share = [](double count, double of, double share, const char* what) {
    EXPECT_NEAR(count / of, share, 5 * std::sqrt(share * (1 - share) / of)) << what;
  };
  const double all = 3.0 * kSequences;
  for (const double count : taken) expect_share(count, kSequences, 3.0 / S, "a place");
  expect_share(masked, all, 0.8, "mask token");
  expect_share(random, all, 0.1 * 255 / 256, "random");  // one in 256 draws the text itself
  expect_share(kept, all, 0.1 + 0.1 / 256, "kept");
  EXPECT_GT(random_ids.size(), 240U);
}

TEST(Masking, OnlyCandidatesAreHidden) {
  const Masking masking(masked_experiment(""));
  std::vector<std::int32_t> tokens(10, 'b'), targets(10);
  for (std::uint64_t sequence = 0; sequence < 50; ++sequence) {
    masking.apply(RandomStream(1, "mask", sequence), {7, 10}, tokens, targets);
    for (std::size_t i = 0; i < 7; ++i) ASSERT_EQ(targets[i], kIgnoredTarget);
    ASSERT_EQ(std::count(targets.begin(), targets.end(), kIgnoredTarget), 9);
    std::fill(tokens.begin(), tokens.end(), 'b');
  }
}

// What the masked dataset hides is the plain dataset's text, anew each time; the same for the same sample.
TEST(MaskedDataset, HidesTokensOfTheText) {
  const std::string path = test::tiny_text_file();
  const Dataset plain(test::tiny_experiment(path));
  const Dataset masked(masked_experiment(path));
  EXPECT_EQ(plain.masked_targets(4), 0);
  EXPECT_EQ(masked.masked_targets(4), 4 * 3);
  constexpr std::size_t S = 19;
  std::vector<std::int32_t> text(S), next(S), tokens(S), targets(S), again(S);
  std::vector<std::vector<std::int32_t>> seen;
  const std::int64_t epoch = plain.sources()[0].training_windows;
  for (std::int64_t sample = 0; sample < 2 * epoch; ++sample) {
    plain.training_sequence(sample, text, next);
    masked.training_sequence(sample, tokens, targets);
    for (std::size_t i = 0; i < S; ++i) {
      const bool predicted = targets[i] != kIgnoredTarget;
      ASSERT_EQ(predicted ? targets[i] : tokens[i], text[i]) << sample << " " << i;
    }
    masked.training_sequence(sample, again, next);
    ASSERT_EQ(tokens, again);
    ASSERT_EQ(targets, next);
  }
}

// Every mask of evaluation lies in the held-out part, whatever the seed, and the last, shorter sequence is
// full.
TEST(MaskedDataset, HeldOutMasksAreFixed) {
  const std::string path = test::tiny_text_file();
  config::Experiment experiment = masked_experiment(path);
  const Dataset dataset(experiment);
  experiment.mutable_run()->set_seed(43);
  const Dataset other_seed(experiment);
  constexpr std::size_t S = 19;
  const Range held_out = dataset.sources()[0].held_out;
  ASSERT_NE(held_out.size() % S, 0) << "the test needs a sequence that is not full";
  std::vector<std::int32_t> tokens(S), targets(S), other_tokens(S), other_targets(S);
  std::int64_t predicted = 0;
  for (std::int64_t index = 0; index < dataset.held_out_sequences(0); ++index) {
    dataset.held_out_sequence(0, index, tokens, targets);
    other_seed.held_out_sequence(0, index, other_tokens, other_targets);
    EXPECT_EQ(tokens, other_tokens);
    EXPECT_EQ(targets, other_targets);
    const std::int64_t fresh =
        std::min<std::int64_t>(S, held_out.size() - index * static_cast<std::int64_t>(S));
    for (std::size_t i = 0; i < S - static_cast<std::size_t>(fresh); ++i)
      EXPECT_EQ(targets[i], kIgnoredTarget);
    predicted += static_cast<std::int64_t>(S) - std::count(targets.begin(), targets.end(), kIgnoredTarget);
  }
  EXPECT_NEAR(static_cast<double>(predicted) / static_cast<double>(held_out.size()), 3.0 / S, 1e-2);
}

TEST(MaskedDataset, TheVocabularyHasOneMoreId) {
  config::Experiment experiment;
  experiment.mutable_train()->set_objective(config::Train::masked);
  config::resolve(experiment);
  EXPECT_EQ(experiment.model().vocab_size(), 257);
}

}  // namespace
}  // namespace conclave::data
