// SEAM 2: a differentiable piece of the model. No tape: forward keeps what its own backward needs.
//
// Contract
//  * forward writes its result into ctx.arena and keeps views of what backward needs; both live until
//    the arena is reset at the end of the micro-batch. With ctx.training == false nothing is kept.
//  * backward is called at most once after each forward, in reverse order of the forwards. It assigns (=) the
//    gradient of its input and adds (+=) to the gradients of its parameters.
//  * T, the number of rows, may be zero on a rank: modules that communicate take part all the same.
#pragma once

#include <vector>

#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave {

class Module {
 public:
  virtual ~Module() = default;

  // x [T, D] -> [T, D].
  virtual TensorView forward(Context& ctx, ConstTensorView x) = 0;
  // dy [T, D] -> dx [T, D].
  virtual TensorView backward(Context& ctx, ConstTensorView dy) = 0;
  // Appends the module's parameters in a fixed order. They live as long as the module.
  virtual void collect_parameters(std::vector<Parameter*>& parameters) = 0;
};

}  // namespace conclave
