// A small experiment and a small text for tests of whole training steps.
#pragma once

#include <string>

#include "configs/run.pb.h"

namespace conclave::test {

// Writes some kilobytes of made-up sentences into the test's temporary directory and returns the path. Every
// rank writes a file of its own, with the same text.
std::string tiny_text_file();

// A resolved experiment of two layers that trains on `text_path`: seconds for 20 steps.
config::Experiment tiny_experiment(const std::string& text_path);

// Changes the experiment as a named variant says: "untied", "shared", "top1", "top_all",
// "dense_every_second", "switch", "sigmoid", "groups", "masked", "local_experts" (a regression), "hash",
// "dense_mixture", "gshard" (with renormalize_after_drop), "noisy_top_k", "hierarchical",
// "expert_choice", "pad_to_capacity", "gateless" (GELU, and a gate on the shared expert), "dropout",
// "overrides" (moe.layers), "force_balanced", "supervised" (experts for the one source); "" leaves it.
void apply(config::Experiment& experiment, const std::string& variant);

}  // namespace conclave::test
