#include "trainer/data/dataset.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "comm/base/error.h"
#include "trainer/data/open_source.h"

namespace conclave::data {
namespace {

void check_that_files_exist(const config::Data& data) {
  std::string missing;
  for (const config::Source& source : data.train()) {
    if (!source_exists(source.path(), data.tokenizer())) {
      missing += fmt::format("\n  data.train source '{}': {}", source.name(), source.path());
    }
  }
  CONCLAVE_CHECK(
      missing.empty(),
      "data files do not exist:{}\nRelative paths start from the working directory, {}. Correct "
      "data.train[].path or make the files (launch/prepare_quickstart_data.sh makes the quickstart's).",
      missing, std::filesystem::current_path().string());
}

std::vector<TokenSource> open_all(const config::Experiment& experiment) {
  check_that_files_exist(experiment.data());
  // The last id of a vocabulary with masking is the mask token's: no text may hold it.
  const bool masked = experiment.train().objective() == config::Train::masked;
  const std::int64_t text_ids = experiment.model().vocab_size() - (masked ? 1 : 0);
  std::vector<TokenSource> opened;
  for (const config::Source& source : experiment.data().train()) {
    opened.push_back(open_source(source.path(), experiment.data().tokenizer()));
    opened.back().check_token_ids(text_ids);
  }
  return opened;
}

std::vector<LineIndex> index_lines(const config::Experiment& experiment,
                                   const std::vector<TokenSource>& opened) {
  std::vector<LineIndex> lines;
  if (experiment.data().samples() != config::Data::lines) return lines;
  for (const TokenSource& source : opened) lines.emplace_back(source);
  return lines;
}

// floor(valid_fraction * count), the part at the end that is held out.
std::int64_t held_out_part(const config::Experiment& experiment, std::int64_t count) {
  return static_cast<std::int64_t>(
      std::floor(experiment.data().valid_fraction() * static_cast<double>(count)));
}

std::vector<SourceInfo> cut_into_parts(const config::Experiment& experiment,
                                       const std::vector<TokenSource>& opened,
                                       const std::vector<LineIndex>& lines) {
  std::vector<SourceInfo> infos;
  for (std::size_t index = 0; index < opened.size(); ++index) {
    const config::Source& source = experiment.data().train(static_cast<int>(index));
    const std::int64_t tokens = opened[index].tokens();
    SourceInfo info;
    info.name = source.name();
    info.path = source.path();
    info.format = opened[index].format();
    std::int64_t training_tokens = tokens - held_out_part(experiment, tokens);
    if (lines.empty()) {
      info.training_windows = std::max<std::int64_t>(0, (training_tokens - 1) / experiment.model().max_seq());
    } else {
      const LineIndex& of_source = lines[index];
      info.training_windows = of_source.lines() - held_out_part(experiment, of_source.lines());
      training_tokens =
          info.training_windows < of_source.lines() ? of_source.line(info.training_windows).begin : tokens;
    }
    info.training = {0, training_tokens};
    info.held_out = {training_tokens, tokens};
    infos.push_back(info);
  }
  return infos;
}

Sampler sampler_of(const config::Experiment& experiment, const std::vector<SourceInfo>& infos) {
  std::vector<SampledSource> sampled;
  for (std::size_t index = 0; index < infos.size(); ++index) {
    sampled.push_back({infos[index].name, experiment.data().train(static_cast<int>(index)).weight(),
                       infos[index].training_windows});
  }
  return Sampler(std::move(sampled), experiment.run().seed());
}

void check_sizes(const config::Experiment& experiment, const std::vector<SourceInfo>& infos,
                 const SourceSchedule& schedule) {
  const std::int64_t sequence_length = experiment.model().max_seq();
  const std::int64_t global_batch = experiment.train().global_batch();
  std::string too_small;
  for (std::size_t index = 0; index < infos.size(); ++index) {
    const SourceInfo& info = infos[index];
    const std::int64_t needed =
        std::max<std::int64_t>(1, schedule.count(static_cast<int>(index), global_batch));
    if (info.training_windows >= needed) continue;
    too_small += fmt::format(
        "\n  data.train source '{}': {} has {} tokens; the {} of its training part make {}, but its share of "
        "one global batch is {}",
        info.name, info.path, info.tokens(), info.training.size(),
        experiment.data().samples() == config::Data::lines
            ? fmt::format("{} lines", info.training_windows)
            : fmt::format("{} sequences of {} + 1 tokens", info.training_windows, sequence_length),
        needed);
  }
  CONCLAVE_CHECK(
      too_small.empty(),
      "data files are too small:{}\nGive larger files, or lower train.global_batch ({}), model.max_seq "
      "({}) or data.valid_fraction ({}).",
      too_small, global_batch, sequence_length, experiment.data().valid_fraction());
}

// Makes room for `sequences` and calls fill(i, tokens [S], targets [S]) for each, which returns its length
// and sets the sequence's source.
template <class Fill>
void fill_sequences(std::int64_t sequences, std::int64_t sequence_length, MicroBatch& batch, Fill fill) {
  const auto length = static_cast<std::size_t>(sequence_length);
  batch.tokens.resize(static_cast<std::size_t>(sequences) * length);
  batch.targets.resize(batch.tokens.size());
  batch.sources.resize(static_cast<std::size_t>(sequences));
  batch.padding.clear();
  for (std::int64_t i = 0; i < sequences; ++i) {
    const std::size_t first = static_cast<std::size_t>(i) * length;
    const std::int64_t real = fill(i, std::span(batch.tokens).subspan(first, length),
                                   std::span(batch.targets).subspan(first, length));
    if (real == sequence_length) continue;
    batch.padding.resize(batch.tokens.size(), 0);
    std::ranges::fill(std::span(batch.padding).subspan(first, length).subspan(static_cast<std::size_t>(real)),
                      std::uint8_t{1});
  }
}

}  // namespace

Dataset::Dataset(const config::Experiment& experiment)
    : sequence_length_(experiment.model().max_seq()),
      seed_(experiment.run().seed()),
      token_sources_(open_all(experiment)),
      lines_(index_lines(experiment, token_sources_)),
      sources_(cut_into_parts(experiment, token_sources_, lines_)),
      sampler_(sampler_of(experiment, sources_)) {
  check_sizes(experiment, sources_, sampler_.schedule());
  if (experiment.train().objective() == config::Train::masked) masking_.emplace(experiment);
  for (std::size_t index = 0; index < sources_.size(); ++index) {
    sources_[index].share = sampler_.schedule().share(static_cast<int>(index));
    names_.push_back(sources_[index].name);
  }
}

Range Dataset::training_line(const Sample& place) const {
  return lines_[static_cast<std::size_t>(place.source)].line(place.window);
}

std::int64_t Dataset::training_length(std::int64_t sample) const {
  if (!has_lines()) return sequence_length_;
  return std::min(sequence_length_, training_line(sampler_.at(sample)).size());
}

// The input of a line's first byte is a newline, wherever the line stands.
std::int64_t Dataset::fill_with_line(int source, Range line, std::span<std::int32_t> tokens,
                                     std::span<std::int32_t> targets) const {
  const std::int64_t length = std::min(sequence_length_, line.size());
  const auto real = static_cast<std::size_t>(length);
  token_sources_[static_cast<std::size_t>(source)].read(line.begin, targets.first(real));
  tokens[0] = '\n';
  std::ranges::copy(targets.first(real - 1), tokens.begin() + 1);
  std::ranges::fill(tokens.subspan(real), 0);
  std::ranges::fill(targets.subspan(real), kIgnoredTarget);
  return length;
}

std::int64_t Dataset::training_sequence(std::int64_t sample, std::span<std::int32_t> tokens,
                                        std::span<std::int32_t> targets) const {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(tokens.size()), sequence_length_, "tokens of one sequence");
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(targets.size()), sequence_length_, "targets of one sequence");
  const Sample place = sampler_.at(sample);
  if (has_lines()) return fill_with_line(place.source, training_line(place), tokens, targets);
  const TokenSource& source = token_sources_[static_cast<std::size_t>(place.source)];
  const std::int64_t first = place.window * sequence_length_;
  source.read(first, tokens);
  if (masking_) {
    masking_->apply(RandomStream(seed_, "mask", static_cast<std::uint64_t>(sample)), {0, sequence_length_},
                    tokens, targets);
    return sequence_length_;
  }
  source.read(first + 1, targets);
  return sequence_length_;
}

std::int64_t Dataset::padding_tokens(Range samples) const {
  std::int64_t padding = 0;
  for (std::int64_t sample = samples.begin; sample < samples.end; ++sample)
    padding += sequence_length_ - training_length(sample);
  return padding;
}

std::int64_t Dataset::masked_targets(std::int64_t sequences) const {
  return masking_ ? sequences * masking_->predicted(sequence_length_) : 0;
}

std::int64_t Dataset::held_out_sequences(int source) const {
  const SourceInfo& info = sources_.at(static_cast<std::size_t>(source));
  if (has_lines()) return lines_[static_cast<std::size_t>(source)].lines() - info.training_windows;
  const std::int64_t tokens = info.held_out.size();
  return (tokens + sequence_length_ - 1) / sequence_length_;
}

std::int64_t Dataset::held_out_sequence(int source, std::int64_t index, std::span<std::int32_t> tokens,
                                        std::span<std::int32_t> targets) const {
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(tokens.size()), sequence_length_, "tokens of one sequence");
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(targets.size()), sequence_length_, "targets of one sequence");
  CONCLAVE_CHECK(index >= 0 && index < held_out_sequences(source),
                 "held-out sequence {} of source '{}', which has {}", index,
                 names_[static_cast<std::size_t>(source)], held_out_sequences(source));
  if (has_lines()) {
    const std::int64_t line = sources_[static_cast<std::size_t>(source)].training_windows + index;
    return fill_with_line(source, lines_[static_cast<std::size_t>(source)].line(line), tokens, targets);
  }
  if (masking_) {
    masked_held_out_sequence(source, index, tokens, targets);
    return sequence_length_;
  }
  const TokenSource& token_source = token_sources_[static_cast<std::size_t>(source)];
  const Range held_out = sources_[static_cast<std::size_t>(source)].held_out;
  const std::int64_t first_target = held_out.begin + index * sequence_length_;
  const auto predicted = static_cast<std::size_t>(std::min(sequence_length_, held_out.end - first_target));
  token_source.read(first_target - 1, tokens.first(predicted));
  token_source.read(first_target, targets.first(predicted));
  std::ranges::fill(tokens.subspan(predicted), 0);
  std::ranges::fill(targets.subspan(predicted), kIgnoredTarget);
  return static_cast<std::int64_t>(predicted);
}

void Dataset::masked_held_out_sequence(int source, std::int64_t index, std::span<std::int32_t> tokens,
                                       std::span<std::int32_t> targets) const {
  constexpr std::uint64_t kSeed = 0;  // runs with different seeds are asked the same
  const SourceInfo& info = sources_[static_cast<std::size_t>(source)];
  const std::int64_t first_new = info.held_out.begin + index * sequence_length_;
  const std::int64_t first = std::min(first_new, info.held_out.end - sequence_length_);
  token_sources_[static_cast<std::size_t>(source)].read(first, tokens);
  masking_->apply(RandomStream(kSeed, "mask/held_out/" + info.name, static_cast<std::uint64_t>(index)),
                  {first_new - first, sequence_length_}, tokens, targets);
}

void Dataset::load_samples(Range samples, MicroBatch& batch) const {
  fill_sequences(samples.size(), sequence_length_, batch,
                 [&](std::int64_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
                   batch.sources[static_cast<std::size_t>(i)] = sampler_.at(samples.begin + i).source;
                   return training_sequence(samples.begin + i, tokens, targets);
                 });
}

void Dataset::load_held_out(int source, std::span<const std::int64_t> sequences, MicroBatch& batch) const {
  fill_sequences(static_cast<std::int64_t>(sequences.size()), sequence_length_, batch,
                 [&](std::int64_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
                   batch.sources[static_cast<std::size_t>(i)] = source;
                   return held_out_sequence(source, sequences[static_cast<std::size_t>(i)], tokens, targets);
                 });
}

double Dataset::epochs(int source, std::int64_t samples) const {
  return static_cast<double>(sampler_.schedule().count(source, samples)) /
         static_cast<double>(sources_.at(static_cast<std::size_t>(source)).training_windows);
}

std::string Dataset::describe() const {
  std::string lines;
  for (const SourceInfo& source : sources_) {
    lines +=
        fmt::format("{:<12} {:5.1f} % of samples  {} tokens to train on ({} {}), {} held out  {} [{}]\n",
                    source.name, 100.0 * source.share, source.training.size(), source.training_windows,
                    has_lines() ? "lines" : "sequences", source.held_out.size(), source.path, source.format);
  }
  return lines;
}

}  // namespace conclave::data
