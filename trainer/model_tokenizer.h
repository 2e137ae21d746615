// What a trained model reads and writes text with.
#pragma once

#include <memory>
#include <span>

#include "configs/run.pb.h"
#include "trainer/data/tokenizer/tokenizer.h"

namespace conclave {

// `bytes` or data.tokenizer_file; null for a model that was trained on ids alone. Throws Error for a file
// that can't be read.
std::unique_ptr<data::Tokenizer> model_tokenizer(const config::Experiment& experiment);

// Throws ConfigError if any of the ids that data.tokenizer_file gave is beyond model.vocab_size.
void check_vocabulary(std::span<const std::int32_t> ids, const config::Experiment& experiment);

}  // namespace conclave
