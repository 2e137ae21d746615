#include "trainer/data/regression_data.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/base/error.h"
#include "layers/tensor/philox.h"
#include "trainer/data/csv_table.h"

namespace conclave::data {
namespace {

void start(MicroBatch& batch, std::int64_t inputs, std::int64_t outputs) {
  batch.input_width = inputs;
  batch.output_width = outputs;
  batch.inputs.clear();
  batch.outputs.clear();
}

}  // namespace

RegressionData::RegressionData(const config::Experiment& experiment)
    : options_(experiment.data().regression()) {
  if (options_.path().empty()) {
    make_up(experiment.run().seed());
  } else {
    read_file();
  }
  const auto held_out =
      static_cast<std::int64_t>(std::floor(experiment.data().valid_fraction() * static_cast<double>(rows_)));
  const std::int64_t training = rows_ - held_out;
  const std::int64_t global_batch = experiment.train().global_batch();
  CONCLAVE_CHECK(training >= global_batch,
                 "the regression has {} samples to train on, fewer than one global batch of {}; give more "
                 "(data.regression.{}), or lower train.global_batch or data.valid_fraction",
                 training, global_batch, options_.path().empty() ? "samples" : "path");
  name_regions(training);
  if (!options_.path().empty() && options_.standardize()) {
    scale_columns(inputs_, options_.inputs(), training);
    scale_columns(outputs_, options_.outputs(), training);
  }
  sampler_.emplace(std::vector<SampledSource>{{"regression", 1.0, training}}, experiment.run().seed());
}

void RegressionData::make_up(std::uint64_t seed) {
  const RandomStream random_inputs(seed, "regression/inputs");
  const RandomStream noise(seed, "regression/noise");
  const auto width = static_cast<std::size_t>(options_.inputs());
  const auto outputs = static_cast<std::size_t>(options_.outputs());
  rows_ = options_.samples();
  inputs_.resize(static_cast<std::size_t>(rows_) * width);
  for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i] = 2 * random_inputs.uniform(i) - 1;
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows_); ++row) {
    const float* x = &inputs_[row * width];
    const config::Region& region = options_.regions(static_cast<int>(region_of(x)));
    for (std::size_t o = 0; o < outputs; ++o) {
      double value = region.offset(static_cast<int>(o)) +
                     options_.noise() * static_cast<double>(noise.normal(row * outputs + o));
      for (std::size_t i = 0; i < width; ++i)
        value += region.slope(static_cast<int>(o * width + i)) * static_cast<double>(x[i]);
      outputs_.push_back(static_cast<float>(value));
    }
  }
}

void RegressionData::read_file() {
  const CsvTable table = read_csv(options_.path());
  const std::int64_t columns = options_.inputs() + options_.outputs();
  CONCLAVE_CHECK(table.columns == columns,
                 "{} has {} columns; data.regression.inputs ({}) and data.regression.outputs ({}) are {} "
                 "together: set them so that they name all columns, the outputs last",
                 options_.path(), table.columns, options_.inputs(), options_.outputs(), columns);
  rows_ = table.rows();
  for (std::int64_t row = 0; row < rows_; ++row) {
    const auto begin = table.values.begin() + row * columns;
    inputs_.insert(inputs_.end(), begin, begin + options_.inputs());
    outputs_.insert(outputs_.end(), begin + options_.inputs(), begin + columns);
  }
}

void RegressionData::scale_columns(std::vector<float>& values, std::int64_t columns,
                                   std::int64_t training_rows) const {
  for (std::int64_t column = 0; column < columns; ++column) {
    const auto at = [&](std::int64_t row) -> float& {
      return values[static_cast<std::size_t>(row * columns + column)];
    };
    double sum = 0;
    double squares = 0;
    for (std::int64_t row = 0; row < training_rows; ++row) sum += static_cast<double>(at(row));
    const double mean = sum / static_cast<double>(training_rows);
    for (std::int64_t row = 0; row < training_rows; ++row)
      squares += std::pow(static_cast<double>(at(row)) - mean, 2);
    const double deviation = std::sqrt(squares / static_cast<double>(training_rows));
    const double scale = deviation > 0 ? 1 / deviation : 1;  // a column that never changes becomes 0
    for (std::int64_t row = 0; row < rows_; ++row)
      at(row) = static_cast<float>((static_cast<double>(at(row)) - mean) * scale);
  }
}

std::size_t RegressionData::region_of(const float* inputs) const {
  std::size_t nearest = 0;
  double smallest = INFINITY;
  for (int region = 0; region < options_.regions_size(); ++region) {
    double distance = 0;
    for (int i = 0; i < static_cast<int>(options_.inputs()); ++i)
      distance += std::pow(static_cast<double>(inputs[i]) - options_.regions(region).center(i), 2);
    if (distance < smallest) {
      smallest = distance;
      nearest = static_cast<std::size_t>(region);
    }
  }
  return nearest;
}

void RegressionData::name_regions(std::int64_t training_rows) {
  for (const config::Region& region : options_.regions()) names_.push_back(region.name());
  if (names_.empty()) names_.emplace_back("samples");
  std::vector<std::int64_t> training(names_.size());
  held_out_rows_.resize(names_.size());
  for (std::int64_t row = 0; row < rows_; ++row) {
    const std::size_t region = region_of(&inputs_[static_cast<std::size_t>(row * options_.inputs())]);
    if (row < training_rows) {
      ++training[region];
    } else {
      held_out_rows_[region].push_back(row);
    }
  }
  for (std::size_t region = 0; region < names_.size(); ++region) {
    SourceInfo info;
    info.name = names_[region];
    info.path = options_.path();
    info.format = options_.path().empty() ? "made up" : "CSV";
    info.share = static_cast<double>(training[region]) / static_cast<double>(training_rows);
    info.training = {0, training[region]};
    info.held_out = {training[region],
                     training[region] + static_cast<std::int64_t>(held_out_rows_[region].size())};
    info.training_windows = training[region];
    sources_.push_back(std::move(info));
  }
}

int RegressionData::source_of_sample(std::int64_t sample) const {
  const auto row = static_cast<std::size_t>(sampler_->at(sample).window);
  return static_cast<int>(region_of(&inputs_[row * static_cast<std::size_t>(options_.inputs())]));
}

std::int64_t RegressionData::held_out_sequences(int source) const {
  return static_cast<std::int64_t>(held_out_rows_.at(static_cast<std::size_t>(source)).size());
}

void RegressionData::append(std::int64_t row, MicroBatch& batch) const {
  const auto copy = [row](const std::vector<float>& from, std::int64_t width, std::vector<float>& to) {
    to.insert(to.end(), from.begin() + row * width, from.begin() + (row + 1) * width);
  };
  copy(inputs_, options_.inputs(), batch.inputs);
  copy(outputs_, options_.outputs(), batch.outputs);
}

void RegressionData::load_samples(Range samples, MicroBatch& batch) const {
  start(batch, options_.inputs(), options_.outputs());
  for (std::int64_t sample = samples.begin; sample < samples.end; ++sample)
    append(sampler_->at(sample).window, batch);
}

void RegressionData::load_held_out(int source, std::span<const std::int64_t> sequences,
                                   MicroBatch& batch) const {
  start(batch, options_.inputs(), options_.outputs());
  const std::vector<std::int64_t>& rows = held_out_rows_.at(static_cast<std::size_t>(source));
  for (const std::int64_t sequence : sequences) append(rows.at(static_cast<std::size_t>(sequence)), batch);
}

std::string RegressionData::describe() const {
  const bool scaled = !options_.path().empty() && options_.standardize();
  std::string lines;
  for (const SourceInfo& source : sources_) {
    lines += fmt::format("{:<12} {:5.1f} % of samples  {} to train on, {} held out  {} [{}{}]\n", source.name,
                         100.0 * source.share, source.training.size(), source.held_out.size(), source.path,
                         source.format, scaled ? ", each column scaled to variance 1" : "");
  }
  return lines;
}

}  // namespace conclave::data
