// The first layer: token ids to vectors.
#pragma once

#include <vector>

#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave {

// Not a Module: its input is integers and has no gradient. Parameter "embedding.weight" [V, D].
class Embedding {
 public:
  // Weights ~ N(0, init_std^2).
  Embedding(std::int64_t vocab_size, std::int64_t d_model, double init_std, std::uint64_t seed);

  // tokens int32 [T] -> x [T, D] in ctx.arena. In training the tokens must live until backward. Throws Error
  // for a token outside [0, V).
  TensorView forward(Context& ctx, ConstTensorView tokens);
  // dx [T, D]: adds to the gradient of the weight.
  void backward(Context& ctx, ConstTensorView dx);
  void collect_parameters(std::vector<Parameter*>& parameters) { parameters.push_back(&weight_); }

  // For a head that shares it.
  Parameter& weight() { return weight_; }

 private:
  Parameter weight_;
  ConstTensorView tokens_;  // of the last forward in training
};

}  // namespace conclave
