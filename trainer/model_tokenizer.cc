#include "trainer/model_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/base/error.h"

namespace conclave {

std::unique_ptr<data::Tokenizer> model_tokenizer(const config::Experiment& experiment) {
  const config::Data& data = experiment.data();
  if (data.tokenizer() == config::Data::bytes) return data::open_tokenizer("bytes");
  return data.tokenizer_file().empty() ? nullptr : data::open_tokenizer(data.tokenizer_file());
}

void check_vocabulary(std::span<const std::int32_t> ids, const config::Experiment& experiment) {
  if (std::ranges::all_of(ids, [&](std::int32_t id) { return id < experiment.model().vocab_size(); })) return;
  throw ConfigError(fmt::format(
      "data.tokenizer_file: {} gives ids beyond model.vocab_size, {}: it is not this model's tokenizer",
      experiment.data().tokenizer_file(), experiment.model().vocab_size()));
}

}  // namespace conclave
