// Rows of a table by token id, and the gradient of the table.
#pragma once

#include "layers/context.h"

namespace conclave {

struct EmbeddingArgs {
  ConstTensorView weight;  // fp32 [V, D]
  ConstTensorView tokens;  // int32 [T]
  TensorView x;            // fp32 [T, D] (=): x[t] = weight[tokens[t]]
};

struct EmbeddingBackwardArgs {
  ConstTensorView dx;      // fp32 [T, D]
  ConstTensorView tokens;  // int32 [T]
  TensorView dweight;  // fp32 [V, D] (+=): rows are added in the order of t, whatever the number of threads
};

// Each throws Error for shapes that do not fit and for a token outside [0, V).
void embedding(Context& ctx, const EmbeddingArgs& args);
void embedding_backward(Context& ctx, const EmbeddingBackwardArgs& args);

namespace cpu {
void embedding(const EmbeddingArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
