#include "trainer/data/random_data.h"

#include <fmt/format.h>

#include "comm/base/error.h"
#include "layers/tensor/philox.h"

namespace conclave::data {

RandomData::RandomData(const config::Experiment& experiment)
    : sequence_length_(experiment.model().max_seq()),
      vocabulary_(experiment.model().vocab_size()),
      seed_(experiment.run().seed()),
      names_{"random"},
      sources_{
          {.name = "random", .path = "", .format = "random", .share = 1, .training = {}, .held_out = {}}} {}

void RandomData::load_samples(Range samples, MicroBatch& batch) const {
  const auto places = static_cast<std::size_t>(samples.size() * sequence_length_);
  batch.tokens.resize(places);
  batch.targets.resize(places);
  batch.sources.assign(static_cast<std::size_t>(samples.size()), 0);
  batch.padding.clear();
  const RandomStream random(seed_, "random_data");
  const auto vocabulary = static_cast<std::uint64_t>(vocabulary_);
  auto place = static_cast<std::uint64_t>(samples.begin * sequence_length_);
  for (std::size_t i = 0; i < places; ++i, ++place) {
    const auto bits = random.block(place);
    batch.tokens[i] = static_cast<std::int32_t>(bits[0] * vocabulary >> 32);
    batch.targets[i] = static_cast<std::int32_t>(bits[1] * vocabulary >> 32);
  }
}

void RandomData::load_held_out(int, std::span<const std::int64_t> sequences, MicroBatch&) const {
  CONCLAVE_CHECK(sequences.empty(), "random data hold nothing out");
}

std::string RandomData::describe() const {
  return fmt::format("data       random tokens of a vocabulary of {}\n", vocabulary_);
}

}  // namespace conclave::data
