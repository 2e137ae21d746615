// Sampling text from a model: temperature, top-k, top-p (nucleus sampling, Holtzman et al., "The Curious Case
// of Neural Text Degeneration", 2020).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "layers/model/language_model.h"

namespace conclave {

struct SamplingOptions {
  double temperature = 1.0;  // 0: always the most probable token
  double top_p = 1.0;        // keep the most probable tokens whose probabilities reach this sum
  std::int64_t top_k = 0;    // keep the k most probable tokens; 0: all
  std::uint64_t seed = 0;
};

// The token that `options` draw from logits [V] at draw `index`; a pure function of its arguments. Ties go to
// the lower id.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t index);

struct GenerationArgs {
  LanguageModel& model;
  const ProcessGrid& grid;               // of one rank
  cuda::Engine* gpu = nullptr;           // that holds the parameters; null: the host does
  std::int64_t max_seq = 0;              // of the model
  std::span<const std::int32_t> prompt;  // not empty
  std::int64_t count = 0;                // tokens to draw
  SamplingOptions sampling = {};
};

// Continues the prompt and passes each token to `emit` as soon as it is drawn. Beyond max_seq positions the
// model continues from the last half of its window.
void generate(const GenerationArgs& args, const std::function<void(std::int32_t)>& emit);

}  // namespace conclave
