// moe.force_balanced: routing without a choice, for measurements of speed under even load. Routers with a
// probability for every expert compute and differentiate it as ever; only which experts are chosen is dealt.
#pragma once

#include <cstdint>

#include "layers/context.h"

namespace conclave {

// One token's experts: `first`, first + 1, ... mod E, each with what the router would weigh it by:
//   scale * score[e], divided by the sum of the K scores if `normalize`
struct DealArgs {
  std::int64_t first = 0;
  std::int64_t experts_count = 0;  // E
  std::int64_t top_k = 0;          // K
  const float* scores = nullptr;   // [E]
  bool normalize = true;
  float scale = 1;
  std::int32_t* experts = nullptr;  // [K] (=)
  float* weights = nullptr;         // [K] (=)
};
void deal(const DealArgs& args);

// Choice k of token n, counted over the global batch, is expert (n K + k) mod E: the choices of the batch are
// dealt in turn, the same in every layout.
struct DealInTurnArgs {
  ConstTensorView scores;  // [T, E]
  bool normalize = true;
  float scale = 1;
  TensorView experts;  // int32 [T, K] (=)
  TensorView weights;  // [T, K] (=)
};
void deal_in_turn(const Context& ctx, const DealInTurnArgs& args);

}  // namespace conclave
