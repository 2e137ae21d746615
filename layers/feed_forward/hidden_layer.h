// The hidden layer of every feed-forward block, dense, shared or of an expert: from what the input projection
// gives to the F hidden elements. swiglu has two input projections, gate and up, in one matrix; gelu and relu
// have one.
#pragma once

#include <string>

#include "configs/run.pb.h"
#include "layers/context.h"

namespace conclave {

// P, the rows of the input projection for each hidden element: 2 for swiglu, else 1.
std::int64_t input_projections(config::Activation kind);
// The end of its parameter's name: ".gate_up" or ".up".
std::string input_projection_name(config::Activation kind);

// preactivation [R, P F] -> h [R, F] (=).
void hidden_layer(Context& ctx, config::Activation kind, ConstTensorView preactivation, TensorView h);
// dh [R, F] -> dpreactivation [R, P F] (=), which may be the preactivation itself.
void hidden_layer_backward(Context& ctx, config::Activation kind, ConstTensorView preactivation,
                           ConstTensorView dh, TensorView dpreactivation);

}  // namespace conclave
