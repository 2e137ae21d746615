// Element-wise sum.
#pragma once

#include "layers/context.h"

namespace conclave {

struct AddArgs {
  ConstTensorView a;  // any shape
  ConstTensorView b;  // the same
  TensorView sum;     // the same (=); may be a or b
};

// sum = a + b, fp32. Its backward is the identity to both. Throws Error for shapes that differ.
void add(Context& ctx, const AddArgs& args);

namespace cpu {
void add(const AddArgs& args);
}

}  // namespace conclave
