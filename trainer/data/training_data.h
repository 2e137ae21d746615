// What a run trains on and is evaluated on, whatever its samples are.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/base/partition.h"
#include "configs/run.pb.h"
#include "trainer/data/micro_batch.h"

namespace conclave::data {

struct SourceInfo {
  std::string name;
  std::string path;
  std::string format;  // "text", "nanoGPT (uint16)", ...
  double share = 0.0;  // of the training samples
  Range training;      // tokens; of a text: bytes; of a regression: rows
  Range held_out;      // tokens; of a text: bytes; of a regression: rows
  std::int64_t training_windows = 0;

  std::int64_t tokens() const { return held_out.end; }
};

// Reading is const and thread-safe, and a pure function of the index.
class TrainingData {
 public:
  virtual ~TrainingData() = default;

  // Places of one sample: the tokens S of a sequence, 1 of a regression.
  virtual std::int64_t sequence_length() const = 0;
  // The parts that evaluations tell apart.
  virtual const std::vector<std::string>& source_names() const = 0;
  virtual const std::vector<SourceInfo>& sources() const = 0;
  // Places of the global samples `samples` that are padding.
  virtual std::int64_t padding_tokens(Range samples) const = 0;
  // Predicted tokens of `sequences` training sequences with train.objective: masked; else 0.
  virtual std::int64_t masked_targets(std::int64_t sequences) const = 0;
  // The source of global sample `sample`, counted over the whole run.
  virtual int source_of_sample(std::int64_t sample) const = 0;
  virtual std::int64_t held_out_sequences(int source) const = 0;

  // Fill `batch` with the global samples `samples` (counted over the whole run), or with the held-out
  // samples of a source that `sequences` lists.
  virtual void load_samples(Range samples, MicroBatch& batch) const = 0;
  virtual void load_held_out(int source, std::span<const std::int64_t> sequences,
                             MicroBatch& batch) const = 0;

  // One line a source, for the start of a run.
  virtual std::string describe() const = 0;
};

// The data of `experiment` (resolved). Throws Error as the data's own class says.
std::unique_ptr<TrainingData> open_data(const config::Experiment& experiment);

}  // namespace conclave::data
