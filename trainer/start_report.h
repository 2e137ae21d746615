// What a person reads when a run starts: the model, the layout, the memory, and what every
// derived value became.
#pragma once

#include <string>

#include "trainer/trainer.h"

namespace conclave {

// Parameters of the whole model (all experts, once).
struct ParameterCount {
  std::int64_t total = 0;
  std::int64_t active = 0;  // that one token passes: top_k of the experts, the embedding row not counted
};
ParameterCount count_parameters(const LanguageModel& model, const config::Experiment& experiment);

// Model floating-point operations of training one token: 6 per active parameter, plus causal attention
// 6 * layers * S * H * head_dim (forward 2 products of S/2 positions on average at 2 flops each,
// backward twice that).
double training_flops_per_token(const ParameterCount& count, const config::Model& model);

// The tables, for rank 0 to print. Not collective.
std::string start_report(const Trainer& trainer);

}  // namespace conclave
