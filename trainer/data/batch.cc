#include "trainer/data/batch.h"

namespace conclave::data {
std::int64_t BatchCut::micro_steps() const {
  if (fixed_shards) {
    const std::int64_t shards = (global_batch + micro_batch - 1) / micro_batch;
    return (shards + ranks - 1) / ranks;
  }
  const std::int64_t at_once = ranks * micro_batch;
  return (global_batch + at_once - 1) / at_once;
}

Range BatchCut::sequences(std::int64_t micro_step, std::int64_t rank) const {
  if (fixed_shards) {
    const std::int64_t shards = (global_batch + micro_batch - 1) / micro_batch;
    const std::int64_t shard = micro_step * ranks + rank;
    return shard < shards ? partition(global_batch, shards, shard) : Range{global_batch, global_batch};
  }
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
  // The first rank has the most, and the first of fixed shards, which are the same in every layout.
  position.most_sequences = cut.sequences(cut.fixed_shards ? 0 : micro_step, 0).size();
  position.global_sequences = cut.global_batch;
  return position;
}

std::int64_t padding_tokens(const TrainingData& data, const BatchCut& cut, std::int64_t batch_number) {
  const std::int64_t first = batch_number * cut.global_batch;
  return data.padding_tokens({first, first + cut.global_batch});
}

void load_training(const TrainingData& data, const BatchCut& cut, std::int64_t batch_number,
                   std::int64_t micro_step, std::int64_t rank, MicroBatch& batch) {
  const Range offsets = cut.sequences(micro_step, rank);
  const std::int64_t first = batch_number * cut.global_batch;
  data.load_samples({first + offsets.begin, first + offsets.end}, batch);
}

}  // namespace conclave::data
