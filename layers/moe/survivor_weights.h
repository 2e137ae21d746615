// moe.renormalize_after_drop (GShard, Lepikhin et al. 2021): once capacity has dropped what it must, the
// weights of the choices that are left are divided by their sum, so that a token whose second expert was full
// gets all of its first. Empty places count as dropped.
//
//   v[t, k] = scale * w[t, k] / sum_j w[t, j]     over the choices j of t that have a row
//
// A token with no choice left, or whose weights sum to 0, gets 0 and no gradient.
#pragma once

#include "layers/context.h"

namespace conclave {

struct SurvivorWeightsArgs {
  ConstTensorView weights;        // w [T, K]
  ConstTensorView row_of_choice;  // int32 [T * K]; DispatchPlan::kDropped where there is none
  float scale = 1;                // moe.routed_scale, which the division would take away
};

// -> survivors [T, K], v; 0 where a choice has no row.
void survivor_weights(Context& ctx, const SurvivorWeightsArgs& args, TensorView survivors);

// dsurvivors [T, K] -> dweights [T, K], assigned; may be dsurvivors itself.
void survivor_weights_backward(Context& ctx, const SurvivorWeightsArgs& args, ConstTensorView dsurvivors,
                               TensorView dweights);

}  // namespace conclave
