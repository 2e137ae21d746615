// How the global batch of an optimizer step is cut into micro-batches and dealt to ranks. The samples of a
// step are the same however it is cut: global batch b holds global samples [b G, (b + 1) G).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/base/partition.h"
#include "layers/context.h"
#include "trainer/data/dataset.h"

namespace conclave::data {

struct BatchCut {
  std::int64_t global_batch = 1;  // G sequences a step, over all ranks
  std::int64_t micro_batch = 1;   // m, the most that a rank computes at once
  std::int64_t ranks = 1;         // W

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

// One rank's sequences, side by side. Keep one and load it again and again: it keeps its memory.
struct MicroBatch {
  std::vector<std::int32_t> tokens;   // [B, S]
  std::vector<std::int32_t> targets;  // [B, S]

  // The same, flat, as the model takes them: [T], T = B S.
  ConstTensorView token_view() const { return flat_view(tokens); }
  ConstTensorView target_view() const { return flat_view(targets); }

 private:
  static ConstTensorView flat_view(const std::vector<std::int32_t>& ids) {
    return tensor_view(std::span<const std::int32_t>(ids), {static_cast<std::int64_t>(ids.size())});
  }
};

// Loads what `rank` trains on in a micro-step of the optimizer step that trains on global batch
// `batch_number` (batch_order.h).
void load_training(const Dataset& dataset, const BatchCut& cut, std::int64_t batch_number,
                   std::int64_t micro_step, std::int64_t rank, MicroBatch& batch);

// Loads the held-out sequences of a source that `sequences` lists.
void load_held_out(const Dataset& dataset, int source, std::span<const std::int64_t> sequences,
                   MicroBatch& batch);

}  // namespace conclave::data
