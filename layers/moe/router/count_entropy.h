// How sure a router was, added up over its tokens.
#pragma once

#include "layers/context.h"
#include "layers/moe/statistics.h"

namespace conclave {

// entropy [T]: its sum goes to router_entropy_sum, of `statistics` or, on a GPU, of ctx.routing_sums.
void count_entropy(const Context& ctx, ConstTensorView entropy, MoeStatistics& statistics);

}  // namespace conclave
