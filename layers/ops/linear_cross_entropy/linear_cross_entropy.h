// The language model's head and its loss in one operator: softmax cross-entropy of logits = h weight^T.
//
//   loss[t] = logsumexp_v(logits[t,v]) - logits[t, targets[t]]
//   dlogits[t,v] = scale (softmax(logits[t])[v] - [v == targets[t]])
//
// The [T, V] logits are by far the largest tensor of a training step, so they exist only for a chunk of rows
// at a time. Since `scale`, the derivative of the training loss by each token's loss, is known beforehand
// (one over the number of tokens of the global batch), the gradients are computed while a chunk is at hand:
// the head's backward happens inside its forward, and the logits are neither kept nor computed twice.
#pragma once

#include "layers/context.h"
#include "layers/tensor/deferred_sum.h"

namespace conclave {

struct LinearCrossEntropyArgs {
  static constexpr std::int32_t kIgnore = -1;

  ConstTensorView h;       // fp32 [T, D]
  ConstTensorView weight;  // fp32 [V, D]; on a GPU also bf16: products are then taken in bf16
  // Optional: the weight packed for products in bf16 (layers/ops/bf16_gemm), which are then taken of it
  // instead of the fp32 one. Logits, losses and sums stay fp32.
  ConstTensorView packed_for_forward = {};         // weight^T as a right side [D, V]
  ConstTensorView packed_for_input_gradient = {};  // weight as a right side [V, D]; with dh
  ConstTensorView targets;  // int32 [T]: in [0, V), or kIgnore: no loss and no gradient
  // Optional: a default-constructed view is left alone.
  TensorView losses = {};  // fp32 [T]: the loss of each token, unscaled, 0 where ignored
  // Gradients of scale * loss_sum; both or neither.
  TensorView dh = {};       // fp32 [T, D] (=)
  TensorView dweight = {};  // fp32 [V, D] (+=)
  float scale = 1.0F;       // used by the gradients only
};

struct LinearCrossEntropyResult {
  DeferredSum loss_sum;      // over the targets, in nats, unscaled; on the host in the order of t
  std::int64_t targets = 0;  // that are not ignored
};

// Scratch, and on a GPU the loss, come from ctx.arena. Throws Error for shapes that do not fit and for a
// target that is neither in [0, V) nor kIgnore.
LinearCrossEntropyResult linear_cross_entropy(Context& ctx, const LinearCrossEntropyArgs& args);

namespace cpu {
// Turns the logits of rows [C, V] into losses, and with `gradients` the logits into dlogits, in place.
struct CrossEntropyRowsArgs {
  TensorView logits;        // fp32 [C, V]
  ConstTensorView targets;  // int32 [C]
  TensorView losses;        // fp64 [C] (=)
  bool gradients = false;
  float scale = 1.0F;
};
void cross_entropy_rows(const CrossEntropyRowsArgs& args);
}  // namespace cpu

}  // namespace conclave
