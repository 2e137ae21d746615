#include "layers/moe/router/softmax_choice.h"

#include "layers/moe/router/count_entropy.h"
#include "layers/moe/router/forced_balance.h"
#include "layers/moe/router/padding.h"
#include "layers/ops/softmax_top_k/softmax_top_k.h"

namespace conclave {

SoftmaxChoice::SoftmaxChoice(Context& ctx, std::int64_t tokens, std::int64_t experts, std::int64_t top_k,
                             float weight_scale)
    : probabilities(ctx.arena->allocate({tokens, experts})),
      chosen(ctx.arena->allocate({tokens, top_k}, DType::kInt32)),
      weights(ctx.arena->allocate({tokens, top_k})),
      log_sum_exp(ctx.arena->allocate({tokens})),
      entropy(ctx.arena->allocate({tokens})),
      scale(weight_scale) {}

void SoftmaxChoice::choose(Context& ctx, ConstTensorView logits, MoeStatistics& statistics) const {
  softmax_top_k(ctx, {.logits = logits,
                      .normalize = true,
                      .scale = scale,
                      .probabilities = probabilities,
                      .experts = chosen,
                      .weights = weights,
                      .log_sum_exp = log_sum_exp,
                      .entropy = entropy});
  for (const TensorView& of_tokens : {probabilities, weights, log_sum_exp, entropy})
    clear_padding(ctx, of_tokens);
  count_entropy(ctx, entropy, statistics);
}

void SoftmaxChoice::deal(const Context& ctx) const {
  deal_in_turn(ctx, {.scores = probabilities, .scale = scale, .experts = chosen, .weights = weights});
}

void SoftmaxChoice::backward(Context& ctx, ConstTensorView dweights, const BalanceGradient& balance,
                             TensorView dlogits) const {
  softmax_top_k_backward(ctx, {.probabilities = probabilities,
                               .experts = chosen,
                               .weights = weights,
                               .log_sum_exp = log_sum_exp,
                               .normalize = true,
                               .scale = scale,
                               .dweights = dweights,
                               .dprobabilities = balance.dprobabilities,
                               .z_coefficient = balance.z_coefficient,
                               .dlogits = dlogits});
}

}  // namespace conclave
