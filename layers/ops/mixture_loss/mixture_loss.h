// The loss of a mixture of local experts (Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local
// experts", 1991): the negative log likelihood of the target under a mixture of Gaussians, one around each
// expert's output, weighted by the gate.
//
//   p[t]    = softmax(logits[t])
//   loss[t] = -ln sum_e p[t, e] exp(-|target[t] - o[t, e]|^2 / (2 sigma^2))
//
// With h[t, e], expert e's share of the sum (its posterior probability),
//   dlogits[t, e]  = scale (p[t, e] - h[t, e])
//   doutput[t, e]  = scale h[t, e] (o[t, e] - target[t]) / sigma^2
// so that an expert learns from the samples that it explains better than the others: they compete.
#pragma once

#include "layers/context.h"

namespace conclave {

struct MixtureLossArgs {
  ConstTensorView logits;         // [T, E] of the gate
  ConstTensorView outputs;        // [T E, O]: o[t, e] is row row_of_choice[t E + e]
  ConstTensorView row_of_choice;  // int32 [T E]
  ConstTensorView targets;        // [T, O]
  double sigma = 1.0;
  TensorView best;  // int32 [T] (=): the expert of the largest p, the lower id of equal ones
  // Gradients of scale * loss_sum; both or neither (default-constructed).
  TensorView dlogits = {};   // [T, E] (=)
  TensorView doutputs = {};  // [T E, O] (=); may be `outputs` itself
  double scale = 1.0;
};

// Sums over the T samples, in their order.
struct MixtureLossResult {
  double loss_sum = 0.0;
  double squared_error_sum = 0.0;       // |target - sum_e p o|^2
  double best_squared_error_sum = 0.0;  // |target - o of the most probable expert|^2
  double entropy_sum = 0.0;             // -sum_e p ln p
};

// All fp32, computed in double; T may be 0. On a GPU row_of_choice and targets may lie in host memory; waits
// for the sums. Throws Error for shapes that do not fit.
MixtureLossResult mixture_loss(Context& ctx, const MixtureLossArgs& args);

namespace cpu {  // arguments already checked
MixtureLossResult mixture_loss(const MixtureLossArgs& args);
}  // namespace cpu

}  // namespace conclave
