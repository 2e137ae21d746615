#include "trainer/data/batch.h"

#include <span>

namespace conclave::data {
namespace {

// Makes room for `sequences` and calls fill(i, tokens [S], targets [S]) for each.
template <class Fill>
void fill_sequences(std::int64_t sequences, std::int64_t sequence_length, MicroBatch& batch, Fill fill) {
  const auto length = static_cast<std::size_t>(sequence_length);
  batch.tokens.resize(static_cast<std::size_t>(sequences) * length);
  batch.targets.resize(batch.tokens.size());
  for (std::int64_t i = 0; i < sequences; ++i) {
    const std::size_t first = static_cast<std::size_t>(i) * length;
    fill(i, std::span(batch.tokens).subspan(first, length), std::span(batch.targets).subspan(first, length));
  }
}

}  // namespace

std::int64_t BatchCut::micro_steps() const {
  const std::int64_t at_once = ranks * micro_batch;
  return (global_batch + at_once - 1) / at_once;
}

Range BatchCut::sequences(std::int64_t micro_step, std::int64_t rank) const {
  const Range all_ranks = partition(global_batch, micro_steps(), micro_step);
  const Range mine = partition(all_ranks.size(), ranks, rank);
  return {all_ranks.begin + mine.begin, all_ranks.begin + mine.end};
}

BatchPosition position_of(const BatchCut& cut, std::int64_t step, std::int64_t micro_step, std::int64_t rank,
                          std::int64_t sequence_length) {
  BatchPosition position;
  position.step = step;
  position.micro_step = micro_step;
  position.micro_steps = cut.micro_steps();
  position.first_sequence = cut.sequences(micro_step, rank).begin;
  position.sequences = cut.sequences(micro_step, rank).size();
  position.sequence_length = sequence_length;
  position.global_sequences = cut.global_batch;
  return position;
}

void load_training(const Dataset& dataset, const BatchCut& cut, std::int64_t batch_number,
                   std::int64_t micro_step, std::int64_t rank, MicroBatch& batch) {
  const Range offsets = cut.sequences(micro_step, rank);
  const std::int64_t first_sample = batch_number * cut.global_batch + offsets.begin;
  fill_sequences(offsets.size(), dataset.sequence_length(), batch,
                 [&](std::int64_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
                   dataset.training_sequence(first_sample + i, tokens, targets);
                 });
}

void load_held_out(const Dataset& dataset, int source, std::span<const std::int64_t> sequences,
                   MicroBatch& batch) {
  fill_sequences(static_cast<std::int64_t>(sequences.size()), dataset.sequence_length(), batch,
                 [&](std::int64_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
                   dataset.held_out_sequence(source, sequences[static_cast<std::size_t>(i)], tokens, targets);
                 });
}

}  // namespace conclave::data
