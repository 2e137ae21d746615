#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "comm/base/error.h"
#include "tests/support/data_files.h"
#include "trainer/data/batch.h"
#include "trainer/data/dataset.h"

namespace conclave::data {
namespace {

using test::bytes_of;
using test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Token i of the file is i: a sequence's tokens say where it lies.
std::string counting_file(std::string_view name, int tokens) {
  std::vector<std::uint16_t> values;
  for (int i = 0; i < tokens; ++i) values.push_back(static_cast<std::uint16_t>(i));
  return write_file(name, bytes_of(values));
}

config::Experiment experiment_with(std::int64_t sequence_length, double valid_fraction,
                                   const std::vector<std::string>& paths) {
  config::Experiment experiment;
  experiment.mutable_model()->set_max_seq(sequence_length);
  experiment.mutable_model()->set_vocab_size(65536);
  experiment.mutable_train()->set_global_batch(4);
  experiment.mutable_data()->set_tokenizer(config::Data::pretokenized);
  experiment.mutable_data()->set_valid_fraction(valid_fraction);
  for (const std::string& path : paths) {
    config::Source* source = experiment.mutable_data()->add_train();
    source->set_name("source" + std::to_string(experiment.data().train_size()));
    source->set_path(path);
  }
  return experiment;
}

std::string dataset_error(const config::Experiment& experiment) {
  try {
    const Dataset dataset(experiment);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kFailure);
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

TEST(Dataset, TrainingSequencesCoverTheTrainingPartOnceAnEpoch) {
  constexpr std::int64_t kLength = 8;
  // 1000 tokens, 100 held out: targets 1 .. 896 in 112 windows.
  const Dataset dataset(experiment_with(kLength, 0.1, {counting_file("a.bin", 1000)}));
  ASSERT_EQ(dataset.sources()[0].training_windows, 112);
  std::vector<int> predicted(1000, 0);
  std::vector<std::int32_t> tokens(kLength), targets(kLength);
  for (std::int64_t sample = 0; sample < 112; ++sample) {
    dataset.training_sequence(sample, tokens, targets);
    for (std::size_t i = 0; i < kLength; ++i) {
      EXPECT_EQ(targets[i], tokens[i] + 1);
      ++predicted[static_cast<std::size_t>(targets[i])];
    }
    EXPECT_EQ(tokens[0], dataset.training_sample(sample).window * kLength);
  }
  for (int token = 0; token < 1000; ++token) {
    EXPECT_EQ(predicted[static_cast<std::size_t>(token)], token >= 1 && token <= 896 ? 1 : 0) << token;
  }
  EXPECT_DOUBLE_EQ(dataset.epochs(0, 112), 1.0);
  EXPECT_DOUBLE_EQ(dataset.epochs(0, 28), 0.25);
}

TEST(Dataset, HeldOutSequencesPredictEveryHeldOutTokenOnce) {
  constexpr std::int64_t kLength = 8;
  const Dataset dataset(experiment_with(kLength, 0.1, {counting_file("a.bin", 1000)}));
  EXPECT_EQ(dataset.sources()[0].training, (Range{0, 900}));
  EXPECT_EQ(dataset.sources()[0].held_out, (Range{900, 1000}));
  ASSERT_EQ(dataset.held_out_sequences(0), 13);  // 12 full ones and 4 tokens more
  std::int32_t expected = 900;
  std::vector<std::int32_t> tokens(kLength), targets(kLength);
  for (std::int64_t index = 0; index < 13; ++index) {
    dataset.held_out_sequence(0, index, tokens, targets);
    for (std::size_t i = 0; i < kLength; ++i) {
      if (expected == 1000) {
        EXPECT_EQ(targets[i], kIgnoredTarget);
        EXPECT_EQ(tokens[i], 0);
      } else {
        EXPECT_EQ(targets[i], expected);
        EXPECT_EQ(tokens[i], expected - 1);
        ++expected;
      }
    }
  }
  EXPECT_EQ(expected, 1000);
  EXPECT_THROW(dataset.held_out_sequence(0, 13, tokens, targets), Error);
}

TEST(Dataset, HoldsNothingOutIfToldSo) {
  const Dataset dataset(experiment_with(8, 0.0, {counting_file("a.bin", 1000)}));
  EXPECT_EQ(dataset.held_out_sequences(0), 0);
  EXPECT_EQ(dataset.sources()[0].training, (Range{0, 1000}));
}

TEST(Dataset, ReadsTextByByte) {
  config::Experiment experiment =
      experiment_with(4, 0.0, {write_file("a.txt", "In the beginning was the Word.")});
  experiment.mutable_data()->set_tokenizer(config::Data::bytes);
  experiment.mutable_model()->set_vocab_size(256);
  const Dataset dataset(experiment);
  EXPECT_EQ(dataset.source_names(), std::vector<std::string>{"source1"});
  EXPECT_THAT(dataset.describe(), AllOf(HasSubstr("a.txt [text]"), HasSubstr("30 tokens")));
}

config::Experiment experiment_with_lines(std::int64_t sequence_length, double valid_fraction,
                                         std::string_view text) {
  config::Experiment experiment =
      experiment_with(sequence_length, valid_fraction, {write_file("lines.txt", text)});
  experiment.mutable_data()->set_tokenizer(config::Data::bytes);
  experiment.mutable_data()->set_samples(config::Data::lines);
  experiment.mutable_model()->set_vocab_size(256);
  experiment.mutable_train()->set_global_batch(1);
  return experiment;
}

std::string text_of(std::span<const std::int32_t> ids, std::int64_t length) {
  return {ids.begin(), ids.begin() + length};
}

TEST(Dataset, EveryLineIsASampleCutOrPadded) {
  const Dataset dataset(experiment_with_lines(5, 0.4, "ab\n\nlonger\nc\n\n\nlast one\nend"));
  // Five lines; the last two are held out.
  ASSERT_EQ(dataset.sources()[0].training_windows, 3);
  ASSERT_EQ(dataset.held_out_sequences(0), 2);
  EXPECT_EQ(dataset.sources()[0].held_out, (Range{15, 27}));
  EXPECT_THAT(dataset.describe(), HasSubstr("(3 lines)"));
  std::vector<std::int32_t> tokens(5), targets(5);
  std::map<std::string, std::string> inputs;  // targets -> tokens
  for (std::int64_t sample = 0; sample < 3; ++sample) {
    const std::int64_t length = dataset.training_sequence(sample, tokens, targets);
    EXPECT_EQ(length, dataset.training_length(sample));
    inputs[text_of(targets, length)] = text_of(tokens, length);
    for (auto i = static_cast<std::size_t>(length); i < 5; ++i) {
      EXPECT_EQ(tokens[i], 0);
      EXPECT_EQ(targets[i], kIgnoredTarget);
    }
  }
  EXPECT_EQ(inputs,
            (std::map<std::string, std::string>{{"ab\n", "\nab"}, {"longe", "\nlong"}, {"c\n", "\nc"}}));
  EXPECT_EQ(dataset.held_out_sequence(0, 0, tokens, targets), 5);
  EXPECT_EQ(text_of(targets, 5), "last ");
  EXPECT_EQ(dataset.held_out_sequence(0, 1, tokens, targets), 3);
  EXPECT_EQ(text_of(targets, 3), "end");
}

TEST(Dataset, TooFewLinesAreAnError) {
  config::Experiment experiment = experiment_with_lines(5, 0, "a\nb\n");
  experiment.mutable_train()->set_global_batch(3);
  EXPECT_THAT(dataset_error(experiment), HasSubstr("make 2 lines, but its share of one global batch is 3"));
}

// A line that crosses the blocks in which the file is read.
TEST(Dataset, FindsLinesInLongTexts) {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += std::to_string(i) + "\n";
  const Dataset dataset(experiment_with_lines(8, 0, text));
  ASSERT_EQ(dataset.sources()[0].training_windows, 30000);
  std::vector<std::int32_t> tokens(8), targets(8);
  std::int64_t sum = 0;
  for (std::int64_t sample = 0; sample < 30000; ++sample)
    sum += std::stol(text_of(targets, dataset.training_sequence(sample, tokens, targets)));
  EXPECT_EQ(sum, std::int64_t{30000} * 29999 / 2);
}

TEST(LoadTraining, MarksThePaddingOfLines) {
  const Dataset dataset(experiment_with_lines(4, 0, "a\nbcdefgh\nijk\n"));
  MicroBatch batch;
  const BatchCut cut{3, 3, 1};
  EXPECT_EQ(padding_tokens(dataset, cut, 0), 2);
  load_training(dataset, cut, 0, 0, 0, batch);
  ASSERT_EQ(batch.padding.size(), 12U);
  for (std::size_t i = 0; i < 12; ++i)
    EXPECT_EQ(batch.padding[i], batch.targets[i] == kIgnoredTarget ? 1 : 0);
  EXPECT_EQ(std::ranges::count(batch.padding, 1), 2);
}

TEST(Dataset, ListsEveryMissingFile) {
  const std::string present = counting_file("present.bin", 1000);
  const std::string first = test::temporary_path("first.bin");
  const std::string second = test::temporary_path("second.bin");
  EXPECT_THAT(
      dataset_error(experiment_with(8, 0.1, {first, present, second})),
      AllOf(HasSubstr(first), HasSubstr(second), Not(HasSubstr(present)), HasSubstr("working directory")));
}

TEST(Dataset, ListsEveryFileSmallerThanItsShareOfABatch) {
  const std::string none = counting_file("none.bin", 8);  // one token short of a sequence
  const std::string one = counting_file("one.bin", 9);    // 1 sequence of 8 + 1 tokens
  const std::string two = counting_file("two.bin", 17);   // 2 sequences
  const std::string plenty = counting_file("plenty.bin", 1000);
  EXPECT_THAT(dataset_error(experiment_with(8, 0.0, {none, plenty, one})),
              AllOf(HasSubstr(none), HasSubstr("make 0 sequences"), HasSubstr("train.global_batch (4)"),
                    Not(HasSubstr(plenty))));
  EXPECT_THAT(dataset_error(experiment_with(8, 0.0, {one, plenty})),
              AllOf(HasSubstr("make 1 sequences"), HasSubstr("one global batch is 2")));
  EXPECT_NO_THROW(Dataset(experiment_with(8, 0.0, {two, plenty})));
}

TEST(Dataset, ChecksTokenIds) {
  config::Experiment experiment = experiment_with(8, 0.1, {counting_file("a.bin", 1000)});
  experiment.mutable_model()->set_vocab_size(999);
  EXPECT_THAT(dataset_error(experiment), HasSubstr("token 999 of 1000 has id 999"));
}

TEST(BatchCut, DealsEachSequenceOnceAndEvenly) {
  for (const std::int64_t global_batch : {1, 5, 7, 32}) {
    for (const std::int64_t micro_batch : {1, 3, 8}) {
      for (const std::int64_t ranks : {1, 2, 3, 4, 40}) {
        const BatchCut cut{global_batch, micro_batch, ranks};
        std::int64_t next = 0;
        for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
          const std::int64_t first = next;
          for (std::int64_t rank = 0; rank < ranks; ++rank) {
            const Range range = cut.sequences(micro_step, rank);
            EXPECT_EQ(range.begin, next);
            EXPECT_LE(range.size(), micro_batch);
            next = range.end;
          }
          EXPECT_GT(next, first) << "no micro-step is empty";
        }
        EXPECT_EQ(next, global_batch);
        EXPECT_GE(global_batch, (cut.micro_steps() - 1) * ranks * micro_batch + 1)
            << "no micro-step too many";
      }
    }
  }
}

// All sequences of a step, in order, as the ranks of a layout load them.
std::vector<std::int32_t> tokens_of_step(const Dataset& dataset, const BatchCut& cut, std::int64_t step) {
  std::vector<std::int32_t> all;
  MicroBatch batch;
  for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
    for (std::int64_t rank = 0; rank < cut.ranks; ++rank) {
      load_training(dataset, cut, step, micro_step, rank, batch);
      const BatchPosition position = position_of(cut, step, micro_step, rank, dataset.sequence_length());
      EXPECT_EQ(static_cast<std::int64_t>(batch.tokens.size()), position.tokens());
      EXPECT_EQ(batch.targets.size(), batch.tokens.size());
      all.insert(all.end(), batch.tokens.begin(), batch.tokens.end());
      all.insert(all.end(), batch.targets.begin(), batch.targets.end());
    }
  }
  return all;
}

TEST(LoadTraining, GivesTheSameSamplesForAnyLayout) {
  const Dataset dataset(
      experiment_with(8, 0.1, {counting_file("a.bin", 1000), counting_file("b.bin", 3000)}));
  std::map<std::int64_t, std::vector<std::int32_t>> expected;  // one sequence at a time on one rank
  for (const std::int64_t step : {0, 1, 17}) expected[step] = tokens_of_step(dataset, {10, 1, 1}, step);
  EXPECT_NE(expected[0], expected[1]);

  MicroBatch batch;
  for (const std::int64_t ranks : {1, 2, 3, 4, 16}) {
    for (const std::int64_t micro_batch : {1, 2, 3, 10}) {
      const BatchCut cut{10, micro_batch, ranks};
      for (const auto& [step, sequences] : expected) {
        // Each sequence at its place: its tokens, then its targets, as tokens_of_step puts single sequences.
        for (std::int64_t micro_step = 0; micro_step < cut.micro_steps(); ++micro_step) {
          for (std::int64_t rank = 0; rank < ranks; ++rank) {
            load_training(dataset, cut, step, micro_step, rank, batch);
            const Range offsets = cut.sequences(micro_step, rank);
            for (std::int64_t i = 0; i < offsets.size() * 8; ++i) {
              const std::int64_t place = (offsets.begin + i / 8) * 16 + i % 8;
              ASSERT_EQ(batch.tokens[static_cast<std::size_t>(i)],
                        sequences[static_cast<std::size_t>(place)]);
              ASSERT_EQ(batch.targets[static_cast<std::size_t>(i)],
                        sequences[static_cast<std::size_t>(place + 8)]);
            }
          }
        }
      }
    }
  }
}

TEST(LoadTraining, TellsTheModulesWhereTheyAre) {
  const BatchPosition position = position_of({10, 2, 3}, 5, 1, 2, 64);
  EXPECT_EQ(position.step, 5);
  EXPECT_EQ(position.micro_step, 1);
  EXPECT_EQ(position.micro_steps, 2);
  EXPECT_EQ(position.sequences, 1);  // 10 = 5 + 5, and 5 = 2 + 2 + 1
  EXPECT_EQ(position.sequence_length, 64);
  EXPECT_EQ(position.most_sequences, 2);
  EXPECT_EQ(position.global_sequences, 10);
}

TEST(LoadHeldOut, LoadsTheListedSequences) {
  const Dataset dataset(experiment_with(8, 0.1, {counting_file("a.bin", 1000)}));
  MicroBatch batch;
  dataset.load_held_out(0, std::array<std::int64_t, 2>{12, 4}, batch);
  ASSERT_EQ(batch.tokens.size(), 16U);
  EXPECT_EQ(batch.targets[7], kIgnoredTarget);
  EXPECT_EQ(batch.padding, (std::vector<std::uint8_t>{0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(batch.tokens[8], 900 + 32 - 1);
  dataset.load_held_out(0, {}, batch);
  EXPECT_TRUE(batch.tokens.empty());
  EXPECT_TRUE(batch.padding.empty()) << "nothing of the last batch";
}

}  // namespace
}  // namespace conclave::data
