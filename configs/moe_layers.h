// moe.layers: other values for some MoE layers.
#pragma once

#include <cstdint>

#include "configs/run.pb.h"

namespace conclave::config {

// `moe` with the keys that `changes` gives in place of its own. With another router, what follows from the
// router (resolve_router) isn't inherited: it is what `changes` gives, or unset.
Moe overridden(const Moe& moe, const MoeLayers& changes);
// The same with what follows from the router filled in.
Moe merged(const Moe& moe, const MoeLayers& changes);

// The values of the MoE layer in block `block` (from 0): moe, with what moe.layers says of the block.
Moe moe_of_layer(const Experiment& experiment, std::int64_t block);

// The experiment as that layer sees it: `moe` is moe_of_layer.
Experiment experiment_of_layer(const Experiment& experiment, std::int64_t block);

// The most experts that an MoE layer has; 0 in a dense model.
std::int64_t most_experts(const Experiment& experiment);

}  // namespace conclave::config
