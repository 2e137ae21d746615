// Sigmoid scores of experts and the choice of the K largest with a bias: the arithmetic of a router that is
// balanced by moving the bias (Wang et al., "Auxiliary-loss-free load balancing strategy for mixture-of-
// experts", 2024; DeepSeek-AI, "DeepSeek-V3", 2024).
#pragma once

#include "layers/context.h"
#include "layers/ops/select_top_k.h"

namespace conclave {

// s = sigmoid(l); the K experts with the largest s + b are chosen; w = scale * their s, divided by its sum if
// `normalize`: the bias moves the choice, not the weights. p = s / sum_e s.
//
// With `groups` only the experts of the best groups compete; a group is as good as the sum of its two largest
// s + b.
//
// Shares (p, and w if normalised) are right also where s itself underflows. A logit of -inf has s = 0 and is
// chosen last, whatever its bias, with weight 0. A token with a NaN, with +inf or with nothing but -inf gets
// NaN everywhere and still K different valid experts.
struct SigmoidTopKArgs {
  ConstTensorView logits;  // l [T, E]
  ConstTensorView bias;    // b [E]
  bool normalize = true;   // divide the weights by their sum
  float scale = 1;         // of the weights, above 0
  GroupLimit groups = {};
  TensorView probabilities;  // p [T, E]
  TensorView experts;        // int32 [T, K]: descending s + b, ties to the lower id
  TensorView weights;        // w [T, K]
  TensorView log_sum_exp;    // [T]: ln sum_e exp(l[e])
  TensorView entropy;        // [T]: -sum_e p ln p
};

// All fp32 but `experts`; T may be zero. Groups that limit take scratch memory from ctx.arena. Throws Error
// for shapes that do not fit and for K of E experts that can't be chosen.
void sigmoid_top_k(Context& ctx, const SigmoidTopKArgs& args);

// The gradient in the logits of
//   sum_tk dweights w  +  sum_te dprobabilities p  +  z_coefficient * sum_t log_sum_exp^2
// where the choice of experts is constant. A place without an expert (a negative id) takes no part.
struct SigmoidTopKBackwardArgs {
  ConstTensorView logits;  // [T, E]
  // As forward left them.
  ConstTensorView probabilities;  // [T, E]
  ConstTensorView experts;        // int32 [T, K]
  ConstTensorView weights;        // [T, K]
  ConstTensorView log_sum_exp;    // [T]
  bool normalize = true;
  float scale = 1;

  ConstTensorView dweights;  // [T, K]
  // [G, E]: each row holds for T / G tokens in a row; empty: none.
  ConstTensorView dprobabilities;
  float z_coefficient = 0;
  TensorView dlogits;  // [T, E], assigned
};

void sigmoid_top_k_backward(Context& ctx, const SigmoidTopKBackwardArgs& args);

namespace cpu {  // arguments already checked
void sigmoid_top_k(const SigmoidTopKArgs& args, const GroupScratch& scratch);
void sigmoid_top_k_backward(const SigmoidTopKBackwardArgs& args);
}  // namespace cpu

}  // namespace conclave
