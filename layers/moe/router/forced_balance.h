// moe.force_balanced: routing without a choice, for measurements of speed under even load.
#pragma once

#include "layers/context.h"

namespace conclave {

// Choice k of token n, counted over the global batch, is expert (n K + k) mod E: the choices of the batch are
// dealt in turn, the same in every layout. Its weight is what a softmax router would give to these experts,
// so that the router is computed and differentiated as ever:
//   scale * p[e], divided by the sum over the K experts if `normalize`
struct DealInTurnArgs {
  ConstTensorView probabilities;  // p [T, E]
  bool normalize = true;
  float scale = 1;
  TensorView experts;  // int32 [T, K] (=)
  TensorView weights;  // [T, K] (=)
};
void deal_in_turn(const Context& ctx, const DealInTurnArgs& args);

}  // namespace conclave
