// Does an experiment compute the same on every layout? A few steps of the same global batch on each
// arrangement of the ranks, compared with one rank alone: losses, gradient norms, every gradient of the first
// step, and every parameter after its first update.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/layout.h"
#include "configs/run.pb.h"

namespace conclave {

// Relative differences from the reference; 0 is equal bit for bit.
struct LayoutDifference {
  double loss = 0;           // largest of all steps
  double gradient_norm = 0;  // largest of all steps
  double gradient = 0;       // largest of all parameters, ||a - b|| / ||b||
  double update = 0;         // of the value's first movement, likewise
  std::string worst_gradient;
  std::string worst_update;
};

struct LayoutCheck {
  Layout layout;
  LayoutDifference difference;
  bool passed = false;
};

struct LayoutReport {
  std::int64_t steps = 0;
  // What a difference may be. 0 with run.determinism: cross_layout. Else what fp32 rounding does: 16 times
  // the effect of moving every initial weight by one unit in its last place, measured on one rank.
  LayoutDifference bound;
  std::vector<LayoutCheck> checks;

  bool passed() const;
};

// Collective over `world`, which must have at least as many ranks as the largest of `ranks`: the first n of
// them are the layout of n, with each expert_parallel_size that divides n. `experiment` is resolved and
// validated; its capacity and balance scope must not depend on the cut of a step (check_verifiable).
LayoutReport verify_layouts(const config::Experiment& experiment, const std::vector<int>& ranks,
                            std::int64_t steps, Communicator& world);

// Throws ConfigError where the configuration itself makes results depend on the layout: a capacity is taken
// over one rank's micro-batch, and balance scopes other than `sequence` over one micro-batch of all ranks.
void check_verifiable(const config::Experiment& experiment);

// A table for people; the last line says whether all is well.
std::string to_text(const LayoutReport& report);

}  // namespace conclave
