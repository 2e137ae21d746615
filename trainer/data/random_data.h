// Made-up tokens for measurements of speed: no files, and no expert that is asked for more than others by the
// text.
#pragma once

#include "comm/base/partition.h"
#include "configs/run.pb.h"
#include "trainer/data/training_data.h"

namespace conclave::data {

// Every token and every target is uniform over the vocabulary, a function of (run.seed, sample, place). Every
// target is predicted, whatever train.objective says; nothing is held out. One source, "random".
class RandomData : public TrainingData {
 public:
  // `experiment` is resolved and has a language model.
  explicit RandomData(const config::Experiment& experiment);

  std::int64_t sequence_length() const override { return sequence_length_; }
  const std::vector<std::string>& source_names() const override { return names_; }
  const std::vector<SourceInfo>& sources() const override { return sources_; }
  std::int64_t padding_tokens(Range) const override { return 0; }
  std::int64_t masked_targets(std::int64_t) const override { return 0; }
  int source_of_sample(std::int64_t) const override { return 0; }
  std::int64_t held_out_sequences(int) const override { return 0; }
  void load_samples(Range samples, MicroBatch& batch) const override;
  void load_held_out(int source, std::span<const std::int64_t> sequences, MicroBatch& batch) const override;
  std::string describe() const override;

 private:
  std::int64_t sequence_length_;
  std::int64_t vocabulary_;
  std::uint64_t seed_;
  std::vector<std::string> names_;
  std::vector<SourceInfo> sources_;
};

}  // namespace conclave::data
