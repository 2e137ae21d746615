// The choice of the expert-choice router: experts take tokens, of each sequence by itself.
#pragma once

#include <cstdint>

#include "configs/run.pb.h"
#include "layers/context.h"

namespace conclave {

// C = ceil(capacity_factor * K * tokens / E), at most `tokens`: what an expert takes of a sequence with as
// many tokens that are no padding.
std::int64_t expert_choice_capacity(const config::Moe& moe, std::int64_t tokens);

struct ExpertChoiceArgs {
  ConstTensorView probabilities;  // p [T, E], T = ctx.batch.tokens()
  TensorView experts;             // int32 [T, E] (=): those that took the token, then kNoExpert
  TensorView weights;             // [T, E] (=): moe.routed_scale p of these, then 0
};

// Of the tokens of each sequence of ctx.batch that are no padding, an expert takes the C with the largest
// p[., e], ties to the lower token. A token's experts are in the order of descending p, ties to the lower id.
// NaN, which would break an order, comes last.
void choose_tokens(Context& ctx, const config::Moe& moe, const ExpertChoiceArgs& args);

}  // namespace conclave
