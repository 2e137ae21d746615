// How the global batch of an optimizer step is cut into micro-batches and dealt to ranks. The samples of a
// step are the same however it is cut: global batch b holds global samples [b G, (b + 1) G).
#pragma once

#include <cstdint>

#include "comm/base/partition.h"
#include "layers/context.h"
#include "trainer/data/training_data.h"

namespace conclave::data {

struct BatchCut {
  std::int64_t global_batch = 1;  // G sequences a step, over all ranks
  std::int64_t micro_batch = 1;   // m, the most that a rank computes at once
  std::int64_t ranks = 1;         // W
  // Cut into ceil(G / m) shards that are the same for every number of ranks, dealt in order: rank r computes
  // shard W s + r in micro-step s. A rank may get none while others get one.
  bool fixed_shards = false;

  // ceil(G / (W m)): the fewest that keep every rank at m or below.
  std::int64_t micro_steps() const;

  // The offsets in [0, G) that `rank` computes in `micro_step`. Each offset belongs to one (micro-step,
  // rank); sizes differ by at most one between the micro-steps of a step and between the ranks of a
  // micro-step, and may be 0.
  Range sequences(std::int64_t micro_step, std::int64_t rank) const;
};

// What the modules are told about a micro-batch (layers/context.h).
BatchPosition position_of(const BatchCut& cut, std::int64_t step, std::int64_t micro_step, std::int64_t rank,
                          std::int64_t sequence_length);

// Places of global batch `batch_number` that are padding: known to every rank before anything is computed.
std::int64_t padding_tokens(const TrainingData& data, const BatchCut& cut, std::int64_t batch_number);

// Loads what `rank` trains on in a micro-step of the optimizer step that trains on global batch
// `batch_number` (batch_order.h).
void load_training(const TrainingData& data, const BatchCut& cut, std::int64_t batch_number,
                   std::int64_t micro_step, std::int64_t rank, MicroBatch& batch);

}  // namespace conclave::data
