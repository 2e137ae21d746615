// The weights of the hierarchical router: those of both levels, multiplied.
#pragma once

#include "layers/moe/router/hierarchical_gates.h"

namespace conclave {

struct GateWeightsArgs {
  float scale = 1;     // moe.routed_scale
  TensorView order;    // int32 [T, K] (=): which of HierarchicalGates::choice each is
  TensorView experts;  // int32 [T, K] (=): in descending order of weight, ties to the lower id
  TensorView weights;  // [T, K] (=): scale a b
};
void multiply_weights(Context& ctx, const HierarchicalGates& gates, const GateWeightsArgs& args);

// dweights [T, K] -> the gradient in a and b, in ctx.arena. `order` as forward left it.
GateGradients multiply_weights_backward(Context& ctx, const HierarchicalGates& gates, float scale,
                                        ConstTensorView order, ConstTensorView dweights);

}  // namespace conclave
