// What a router decides for the tokens of one micro-batch of one rank.
#pragma once

#include <cstdint>

#include "layers/tensor/tensor_view.h"

namespace conclave {

inline constexpr std::int32_t kNoExpert = -1;

struct Routing {
  // The chosen experts of token t in order of choice: choice 0 is the best. Global expert ids, all different
  // within a token; kNoExpert where a place stays empty (padding, GShard's second choice, expert choice): it
  // is neither counted nor sent. int32 [T, K].
  ConstTensorView experts;
  // The weight of each choice in the combination. fp32 [T, K].
  ConstTensorView weights;
  // -sum_e p ln p of each token's distribution over the experts, for those who look into the router; empty
  // where a router has no such distribution. fp32 [T].
  ConstTensorView entropy = {};
};

}  // namespace conclave
