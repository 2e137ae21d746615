// Rules about the keys of one router: what it needs, and what would have no effect with it.
#pragma once

#include <vector>

#include "configs/validate.h"

namespace conclave::config {

// Appends the broken rules of the routers hash, dense, noisy_top_k, gshard and hierarchical, and of keys that
// belong to one of them. A key that a router can't honour is refused rather than ignored. The experiment has
// experts.
void check_router(const Experiment& experiment, std::vector<Violation>& broken);

}  // namespace conclave::config
