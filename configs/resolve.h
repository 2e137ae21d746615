// Values that follow from others: every `auto` of a loaded experiment becomes a number.
#pragma once

#include "configs/run.pb.h"

namespace conclave::config {

// Sets model.kv_heads, model.head_dim and model.vocab_size where they are `auto`, and moe.balance_loss to 0
// for expert_choice, which has none. Needs no validation first: it never divides by zero.
// parallel.expert_parallel_size stays `auto`: it depends on the number of ranks.
void resolve(Experiment& experiment);

// True if block `layer` (from 0) holds an MoE layer: the last block of each moe.every blocks.
bool is_moe_layer(const Experiment& experiment, std::int64_t layer);

// True if a causal model's tokens choose experts by the tokens after them (expert_choice): its losses are no
// fair ones.
bool leaks_future(const Experiment& experiment);

// The betas of AdamW, the schema's default where none are given.
struct Betas {
  double first;
  double second;
};
Betas betas(const Optim& optim);

}  // namespace conclave::config
