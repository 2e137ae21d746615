// Samples of a regression: rows of numbers, inputs and the outputs to be predicted from them.
//
// Made up by data.regression.regions: inputs are uniform in [-1, 1], a sample belongs to the region whose
// centre is nearest, and outputs = slope x + offset of that region, plus noise. Or read from a CSV file,
// whose last columns are the outputs; by default each column is shifted and scaled to mean 0 and variance 1
// over the training part. With `regions` the rows of a file are told apart by nearest centre too, in
// evaluations.
//
// The last floor(valid_fraction * samples) rows are held out. Training goes through the others in a new
// shuffled order every epoch.
#pragma once

#include <optional>
#include <vector>

#include "trainer/data/sampler.h"
#include "trainer/data/training_data.h"

namespace conclave::data {

class RegressionData : public TrainingData {
 public:
  // Throws Error if the file can't be used: unreadable, no numbers, other columns than inputs + outputs, too
  // few rows.
  explicit RegressionData(const config::Experiment& experiment);

  std::int64_t sequence_length() const override { return 1; }
  const std::vector<std::string>& source_names() const override { return names_; }  // regions
  const std::vector<SourceInfo>& sources() const override { return sources_; }
  std::int64_t padding_tokens(Range) const override { return 0; }
  std::int64_t masked_targets(std::int64_t) const override { return 0; }
  int source_of_sample(std::int64_t sample) const override;
  std::int64_t held_out_sequences(int source) const override;
  void load_samples(Range samples, MicroBatch& batch) const override;
  void load_held_out(int source, std::span<const std::int64_t> sequences, MicroBatch& batch) const override;
  std::string describe() const override;

 private:
  void make_up(std::uint64_t seed);
  void read_file();
  void scale_columns(std::vector<float>& values, std::int64_t columns, std::int64_t training_rows) const;
  // The region whose centre is nearest to the inputs of a row; 0 without regions.
  std::size_t region_of(const float* inputs) const;
  void name_regions(std::int64_t training_rows);
  void append(std::int64_t row, MicroBatch& batch) const;

  config::Regression options_;
  std::int64_t rows_ = 0;       // N
  std::vector<float> inputs_;   // [N, I]
  std::vector<float> outputs_;  // [N, O]
  std::vector<std::string> names_;
  std::vector<SourceInfo> sources_;
  std::vector<std::vector<std::int64_t>> held_out_rows_;  // of each region
  std::optional<Sampler> sampler_;                        // of the training rows
};

}  // namespace conclave::data
