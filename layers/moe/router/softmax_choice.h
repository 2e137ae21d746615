// The K largest of E logits with a softmax among them as weights: what dense, gshard and noisy_top_k have in
// common. The operator is layers/ops/softmax_top_k, here with padding, entropy and balance terms.
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/moe/balance_loss.h"
#include "layers/moe/statistics.h"

namespace conclave {

// Lives in the arena of the micro-batch. Padding has zeros everywhere, and any valid experts.
struct SoftmaxChoice {
  TensorView probabilities;  // [T, E], softmax over all E
  TensorView chosen;         // int32 [T, K], descending logit, ties to the lower id
  TensorView weights;        // [T, K], sum to `scale`
  TensorView log_sum_exp;    // [T]
  TensorView entropy;        // [T], of the probabilities
  float scale = 1;

  SoftmaxChoice() = default;
  // Allocates; `choose` fills it, so that the logits can be scratch memory.
  SoftmaxChoice(Context& ctx, std::int64_t tokens, std::int64_t experts, std::int64_t top_k,
                float weight_scale);

  // logits [T, E]. Adds to the router entropy.
  void choose(Context& ctx, ConstTensorView logits, MoeStatistics& statistics) const;

  // In place of what was chosen: experts in turn (forced_balance.h), weighed as ever.
  void deal(const Context& ctx) const;

  // dweights [T, K] and the gradient of the balance terms -> dlogits [T, E], assigned.
  void backward(Context& ctx, ConstTensorView dweights, const BalanceGradient& balance,
                TensorView dlogits) const;
};

}  // namespace conclave
