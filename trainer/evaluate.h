// Held-out loss by source, and which experts took each source's tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layers/model/model.h"
#include "trainer/data/batch.h"
#include "trainer/data/training_data.h"

namespace conclave {

struct HeldOutSource {
  std::string name;
  double loss_sum = 0;  // nats, over all ranks
  std::int64_t targets = 0;
  // Of regressions, over all ranks: of the mixture's mean, and of each sample's most probable expert.
  double squared_error_sum = 0;
  double best_squared_error_sum = 0;
  // Choices of each expert by MoE layer: [layer][expert].
  std::vector<std::vector<std::int64_t>> expert_loads;
  // Over all MoE layers: tokens with experts of their own (moe.router_supervision), and those of them whose
  // first choice was one of these.
  std::int64_t labelled_tokens = 0;
  std::int64_t labelled_hits = 0;

  // Share of hits; nothing where the source has no experts of its own.
  std::optional<double> router_accuracy() const;
  double loss() const { return per_target(loss_sum); }
  double mean_squared_error() const { return per_target(squared_error_sum); }
  double best_mean_squared_error() const { return per_target(best_squared_error_sum); }

 private:
  double per_target(double sum) const { return targets > 0 ? sum / static_cast<double>(targets) : 0.0; }
};

struct Evaluation {
  std::vector<HeldOutSource> sources;  // those that hold something out

  // All sources together, without expert_loads.
  HeldOutSource total() const;
  // Mean over all held-out targets, nats per token.
  double loss() const { return total().loss(); }
  // Over all sources that have experts of their own; nothing if none has.
  std::optional<double> router_accuracy() const;
};

struct EvaluationArgs {
  Model& model;
  const data::TrainingData& dataset;
  const ProcessGrid& grid;
  Arena& arena;  // in the memory of `gpu`, if there is one
  data::MicroBatch& batch;
  DType compute = DType::kFloat32;
  cuda::Engine* gpu = nullptr;     // that holds the parameters; null: the host does
  std::int64_t micro_batch = 1;    // sequences that a rank computes at once
  std::int64_t max_sequences = 0;  // of each source, spread over its held-out part; 0: all
};

// Collective; the same result on every rank. Nothing is dropped, whatever the capacity factor of training,
// and the result does not depend on the number of ranks but for rounding. The routing statistics of training
// stay as they are.
Evaluation evaluate(const EvaluationArgs& args);

}  // namespace conclave
