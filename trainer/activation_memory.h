// How much forward keeps for backward, from the configuration alone: what train.recompute is chosen by.
#pragma once

#include <cstdint>

#include "configs/run.pb.h"

namespace conclave {

// Bytes of fp32 activations of one rank's T tokens that are kept from forward to backward, with experts
// evenly loaded. What grows with T only; a few percent off where routers, dropout or padding keep more.
struct ActivationMemory {
  // `experiment` is resolved and has a language model; `has_peers`: experts are shared out to several ranks,
  // so that rows exist on both sides of the exchange.
  ActivationMemory(const config::Experiment& experiment, std::int64_t tokens, bool has_peers);

  double none = 0;
  double experts = 0;
  double block = 0;          // the inputs of all blocks
  double largest_block = 0;  // of one block: what backward adds to `block` while it computes that block again

  // The largest that is kept at once under an option.
  double of(config::Train::Recompute recompute) const;
};

}  // namespace conclave
