// Dropout (Srivastava et al. 2014): in training each element is set to 0 with probability `rate`, and those
// that stay are divided by 1 - rate.
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/tensor/philox.h"

namespace conclave {

// The blocks of random numbers that a row of `width` elements draws from: four elements share one.
inline std::int64_t dropout_blocks(std::int64_t width) { return (width + 3) / 4; }

struct DropoutArgs {
  RandomStream random;
  // int64 [R]: element f of row r stays if word f % 4 of block first_block[r] + f / 4 of `random`, as a
  // uniform number, is at least `rate`.
  ConstTensorView first_block;
  float rate = 0;   // in [0, 1)
  TensorView x;     // [R, F], in place
  TensorView kept;  // uint8 [R, F] (=): 1 where x stayed
};

struct DropoutBackwardArgs {
  ConstTensorView kept;  // uint8 [R, F]
  float rate = 0;
  TensorView dx;  // [R, F], in place: holds dy before
};

// x and dx are fp32 or bf16. Throws Error for shapes that do not fit or a rate outside of [0, 1).
void dropout(Context& ctx, const DropoutArgs& args);
void dropout_backward(Context& ctx, const DropoutBackwardArgs& args);

namespace cpu {  // arguments already checked
void dropout(const DropoutArgs& args);
void dropout_backward(const DropoutBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
