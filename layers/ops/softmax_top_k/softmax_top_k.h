// Softmax over experts and the choice of the K largest: the arithmetic of a softmax router (Shazeer et al.
// 2017; Fedus et al. 2021; normalised: Jiang et al. 2024, "Mixtral of Experts").
#pragma once

#include "layers/context.h"
#include "layers/ops/select_top_k.h"

namespace conclave {

// p = softmax(l); the K experts with the largest logits are chosen; w = scale * their p,
// divided by its sum if `normalize`.
//
// With `groups` only the experts of the best groups compete; a group is as good as the sum of its two largest
// p. p and its gradient are over all experts as before.
//
// A logit of -inf has probability 0 and is chosen last, with weight 0. At least one logit of a token must be
// above -inf. A token with a NaN, with +inf or with nothing but -inf gets NaN everywhere and still K
// different valid experts, so that a diverged model shows in the loss.
struct SoftmaxTopKArgs {
  ConstTensorView logits;  // l [T, E]
  bool normalize = true;   // divide the weights by their sum
  float scale = 1;         // of the weights, above 0
  GroupLimit groups = {};
  TensorView probabilities;  // p [T, E]
  TensorView experts;        // int32 [T, K]: descending logit, ties to the lower id
  TensorView weights;        // w [T, K]
  TensorView log_sum_exp;    // [T]: ln sum_e exp(l[e])
  TensorView entropy;        // [T]: -sum_e p ln p
};

// All fp32 but `experts`; T may be zero. Groups that limit take scratch memory from ctx.arena. Throws Error
// for shapes that do not fit and for K of E experts that can't be chosen.
void softmax_top_k(Context& ctx, const SoftmaxTopKArgs& args);

// The gradient in the logits of
//   sum_tk dweights w  +  sum_te dprobabilities p  +  z_coefficient * sum_t log_sum_exp^2
// where the choice of experts is constant.
struct SoftmaxTopKBackwardArgs {
  // As forward left them. A negative expert is a place that was emptied: its weight is 0, and it has no
  // gradient.
  ConstTensorView probabilities;  // [T, E]
  ConstTensorView experts;        // int32 [T, K]
  ConstTensorView weights;        // [T, K]
  ConstTensorView log_sum_exp;    // [T]
  bool normalize = true;
  float scale = 1;

  ConstTensorView dweights;  // [T, K]
  // [G, E]: each row holds for T / G tokens in a row. G = 1: one row for all; G = T:
  // a row a token; empty: none.
  ConstTensorView dprobabilities;
  float z_coefficient = 0;
  TensorView dlogits;  // [T, E], assigned
};

void softmax_top_k_backward(Context& ctx, const SoftmaxTopKBackwardArgs& args);

namespace cpu {  // arguments already checked
void softmax_top_k(const SoftmaxTopKArgs& args, const GroupScratch& scratch);
void softmax_top_k_backward(const SoftmaxTopKBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
