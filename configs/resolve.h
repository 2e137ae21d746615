// Values that follow from others: every `auto` of a loaded experiment becomes a number.
#pragma once

#include "configs/run.pb.h"

namespace conclave::config {

// Sets model.kv_heads, model.head_dim and model.vocab_size where they are `auto`, and what follows from the
// router: moe.top_k = moe.experts and moe.capacity_factor = dropless for `dense`; moe.balance_loss = 0, if it
// isn't given, for `dense`, `hash` and `expert_choice`. Needs no validation first: it never divides by zero.
// parallel.expert_parallel_size stays `auto`: it depends on the number of ranks.
void resolve(Experiment& experiment);

// What follows from the router alone, of all MoE layers or of one; the rules (router_rules.cc) refuse other
// values that were given.
void resolve_router(Moe& moe);
// Unsets the keys of `moe` that are not free with `router`: those above, and moe.z_loss, which `hash` can't
// have.
void clear_what_follows(Moe::Router router, Moe& moe);

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

// optim.expert_weight_decay with `auto` resolved.
double expert_weight_decay(const Optim& optim);

}  // namespace conclave::config
