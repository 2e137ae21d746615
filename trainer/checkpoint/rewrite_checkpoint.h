// Checkpoints in another form: for another number of ranks, and as one file. Neither holds more than one
// piece of a file's pages in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/checkpoint/shard_plan.h"

namespace conclave {

// Writes `target` as the ranks of `layout` would have written it, to the last byte (optimizer state that its
// owners shared out is cut evenly, where they would have cut it at blocks). It must not exist. Throws Error
// for a damaged source and for any failure to write; nothing is left behind then.
void reshard_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                        Layout layout);

struct Consolidation {
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;  // of the file
};

// Writes every global tensor (without the optimizer's, unless `with_optimizer_state`) into one safetensors
// file with step, tokens, seed, version and configuration in its metadata. Readers see the whole file or what
// was there before.
Consolidation consolidate_checkpoint(const std::filesystem::path& source, const std::filesystem::path& file,
                                     bool with_optimizer_state);

// Optimizer state is named after what it belongs to: "adamw.m/layers.0.moe.experts.down".
bool is_optimizer_state(const std::string& tensor);

}  // namespace conclave
