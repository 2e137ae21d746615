// Values that follow from others: every `auto` of a loaded experiment becomes a number.
#pragma once

#include "configs/run.pb.h"

namespace conclave::config {

// Sets model.kv_heads, model.head_dim and model.vocab_size where they are `auto`. Needs no validation first:
// it never divides by zero. parallel.expert_parallel_size stays `auto`: it depends on the number of ranks.
void resolve(Experiment& experiment);

// True if block `layer` (from 0) holds an MoE layer: the last block of each moe.every blocks.
bool is_moe_layer(const Experiment& experiment, std::int64_t layer);

// The betas of AdamW, the schema's default where none are given.
struct Betas {
  double first;
  double second;
};
Betas betas(const Optim& optim);

// optim.expert_weight_decay with `auto` resolved.
double expert_weight_decay(const Optim& optim);

}  // namespace conclave::config
