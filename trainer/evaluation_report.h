// An evaluation as tables.
#pragma once

#include <string>

#include "configs/run.pb.h"
#include "trainer/evaluate.h"

namespace conclave {

// Bits per byte of a loss in nats per token, for a tokenizer whose tokens are bytes.
double bits_per_byte(double loss);
bool tokens_are_bytes(const config::Experiment& experiment);
// Only tokens that were masked out of the input are predicted (train.objective: masked).
bool predicts_masked(const config::Experiment& experiment);

// What every log line of a run begins with whose tokens see the future: "future leak"; "" for others.
std::string future_leak_marker(const config::Experiment& experiment);

// The samples are rows of numbers and the model a regression.
bool is_regression(const config::Experiment& experiment);

// Loss (and bits per byte, squared errors, or the router's accuracy under moe.router_supervision) by source
// and over all.
std::string held_out_table(const Evaluation& evaluation, const config::Experiment& experiment);

// Which expert took which share of each source's tokens, a table an MoE layer; "" for a dense model.
std::string expert_tables(const Evaluation& evaluation, const Model& model);

}  // namespace conclave
