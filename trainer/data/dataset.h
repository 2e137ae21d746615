// The data of a run: its sources, cut into a training part and a held-out part, each cut into sequences.
//
// A source of N tokens holds out its last floor(valid_fraction * N). Windows of S + 1 tokens, S =
// model.max_seq, start every S tokens: S inputs and, one place on, S targets, so that no target occurs twice.
// Training windows lie wholly in the training part. Held-out windows predict every held-out token once: the
// first has the last training token as its first input, the last is filled up with padding.
//
// With train.objective: masked the same windows hold S tokens, some of which are hidden (masking.h) and are
// the only targets; a training sequence by its global sample, anew each epoch, a held-out one always alike,
// whatever the run's seed. The last held-out window is moved back to be full, and hides new tokens only.
//
// With data.samples: lines, a sample is a line of the text instead, its newline included: the targets are its
// bytes, cut after S, the inputs are the byte before each, beginning with a newline; the rest of S is
// padding. Empty lines are left out. Of N lines the last floor(valid_fraction * N) are held out.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/base/partition.h"
#include "configs/run.pb.h"
#include "trainer/data/line_index.h"
#include "trainer/data/masking.h"
#include "trainer/data/sampler.h"
#include "trainer/data/token_source.h"
#include "trainer/data/training_data.h"

namespace conclave::data {

// The target of padding, which is not predicted; its input is token 0.
inline constexpr std::int32_t kIgnoredTarget = -1;

class Dataset : public TrainingData {
 public:
  // `experiment` is resolved (configs/resolve.h). Opens every source and checks all token ids. Throws Error
  // that lists every file that is missing, or every source that is too small for its share of one global
  // batch; or names the first file that is damaged or has ids outside the vocabulary.
  explicit Dataset(const config::Experiment& experiment);

  std::int64_t sequence_length() const override { return sequence_length_; }
  const std::vector<std::string>& source_names() const override { return names_; }
  const std::vector<SourceInfo>& sources() const override { return sources_; }

  // Where global sample `sample` (counted over the whole run) comes from.
  Sample training_sample(std::int64_t sample) const { return sampler_.at(sample); }

  // Places of global sample `sample` that are no padding: from 1 to S.
  std::int64_t training_length(std::int64_t sample) const;

  std::int64_t padding_tokens(Range samples) const override;
  std::int64_t masked_targets(std::int64_t sequences) const override;
  int source_of_sample(std::int64_t sample) const override { return training_sample(sample).source; }

  // Fills S tokens and S targets with global sample `sample`. Returns its length.
  std::int64_t training_sequence(std::int64_t sample, std::span<std::int32_t> tokens,
                                 std::span<std::int32_t> targets) const;

  // ceil(held-out tokens / S), or lines; 0 where nothing is held out.
  std::int64_t held_out_sequences(int source) const override;

  // Fills S tokens and S targets with held-out sequence `index` of a source. Returns its length.
  std::int64_t held_out_sequence(int source, std::int64_t index, std::span<std::int32_t> tokens,
                                 std::span<std::int32_t> targets) const;

  // How often a source's training part has been read after `samples` global samples.
  double epochs(int source, std::int64_t samples) const;

  void load_samples(Range samples, MicroBatch& batch) const override;
  void load_held_out(int source, std::span<const std::int64_t> sequences, MicroBatch& batch) const override;

  std::string describe() const override;

 private:
  void masked_held_out_sequence(int source, std::int64_t index, std::span<std::int32_t> tokens,
                                std::span<std::int32_t> targets) const;
  bool has_lines() const { return !lines_.empty(); }
  Range training_line(const Sample& place) const;
  std::int64_t fill_with_line(int source, Range line, std::span<std::int32_t> tokens,
                              std::span<std::int32_t> targets) const;

  std::int64_t sequence_length_;
  std::uint64_t seed_;
  std::optional<Masking> masking_;  // with train.objective: masked
  std::vector<TokenSource> token_sources_;
  std::vector<LineIndex> lines_;  // one a source for data.samples: lines, otherwise none
  std::vector<SourceInfo> sources_;
  std::vector<std::string> names_;
  Sampler sampler_;
};

}  // namespace conclave::data
