#include "layers/moe/router/forced_balance.h"

#include <algorithm>
#include <limits>

namespace conclave {

void deal_in_turn(const Context& ctx, const DealInTurnArgs& args) {
  const std::int64_t tokens = args.probabilities.extent(0);
  const std::int64_t E = args.probabilities.extent(1);
  const std::int64_t K = args.experts.extent(1);
  const std::int64_t first_token = ctx.batch.first_sequence * ctx.batch.sequence_length;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* p = args.probabilities.data<float>() + t * E;
    std::int32_t* experts = args.experts.data<std::int32_t>() + t * K;
    float* weights = args.weights.data<float>() + t * K;
    float sum = 0;
    for (std::int64_t k = 0; k < K; ++k) {
      experts[k] = static_cast<std::int32_t>(((first_token + t) * K + k) % E);
      sum += p[experts[k]];
    }
    // The probabilities of experts that nobody chose may all vanish.
    const float divisor = args.normalize ? std::max(sum, std::numeric_limits<float>::min()) : 1.0F;
    for (std::int64_t k = 0; k < K; ++k) weights[k] = args.scale * (p[experts[k]] / divisor);
  }
}

}  // namespace conclave
