// Rules that span several keys. Limits of single keys stand in run.proto.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::config {

struct Violation {
  std::vector<std::string> keys;  // those that the rule is about, the one to change first
  std::string message;            // the keys, their values, and values that would work
};

// Every broken rule of an experiment whose single values are valid; `auto` values may be resolved or not.
// Rules about experts bind only models that have some: a dense model may keep any moe.top_k.
std::vector<Violation> violations(const Experiment& experiment);

// The divisors of `number` up to `largest`, ascending, for messages.
std::vector<std::string> divisors(std::int64_t number, std::int64_t largest);

// Throws ConfigError, naming the values that would work, unless parallel.expert_parallel_size is auto or
// divides world_size and is at most the experts of the largest MoE layer (1 for a dense model), and a rank
// holds as many experts of that layer as there are parallel.exchange_chunks.
void check_for_world(const Experiment& experiment, int world_size);

}  // namespace conclave::config
