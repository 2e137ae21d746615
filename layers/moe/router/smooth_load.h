// The smooth estimate of the load that noisy top-K gating puts on each expert (Shazeer et al. 2017,
// appendix A): the probability that expert e is among the K best of the token if its noise alone were drawn
// anew,
//
//   P[t, e] = Phi((clean[t, e] - threshold[t, e]) / deviation[t, e]),
//
// where threshold[t, e] is the K-th largest noisy logit among the other experts and Phi the normal
// distribution function. With K = E every expert is chosen: P = 1. Counts have no gradient; P has one.
#pragma once

#include "layers/context.h"

namespace conclave {

struct SmoothLoadArgs {
  ConstTensorView clean;      // [T, E] logits without noise
  ConstTensorView noisy;      // [T, E] logits that chose
  ConstTensorView deviation;  // [T, E], above 0
  ConstTensorView chosen;     // int32 [T, K], the K largest of `noisy` in descending order
};

// load [T, E] = P, 0 for padding.
void smooth_load(Context& ctx, const SmoothLoadArgs& args, TensorView load);

struct SmoothLoadGradient {
  TensorView dclean;      // [T, E], assigned
  TensorView dnoisy;      // [T, E], added to: the gradient of the thresholds
  TensorView ddeviation;  // [T, E], assigned
};

// The gradient of sum_te dload P, with the choice constant. dload [A, E]: each row holds for T / A tokens in
// a row. Padding has none.
void smooth_load_backward(Context& ctx, const SmoothLoadArgs& args, ConstTensorView dload,
                          const SmoothLoadGradient& gradient);

}  // namespace conclave
