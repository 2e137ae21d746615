#include "layers/moe/router/forced_balance.h"

#include <algorithm>
#include <limits>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"

namespace conclave {

void deal(const DealArgs& args) {
  float sum = 0;
  for (std::int64_t k = 0; k < args.top_k; ++k) {
    args.experts[k] = static_cast<std::int32_t>((args.first + k) % args.experts_count);
    sum += args.scores[args.experts[k]];
  }
  // The scores of experts that nobody chose may all vanish.
  const float divisor = args.normalize ? std::max(sum, std::numeric_limits<float>::min()) : 1.0F;
  for (std::int64_t k = 0; k < args.top_k; ++k)
    args.weights[k] = args.scale * (args.scores[args.experts[k]] / divisor);
}

void deal_in_turn(const Context& ctx, const DealInTurnArgs& args) {
  const std::int64_t E = args.scores.extent(1);
  const std::int64_t K = args.experts.extent(1);
  const std::int64_t first_token = ctx.batch.first_sequence * ctx.batch.sequence_length;
  if (ctx.on_gpu()) {
    cuda::deal_in_turn(cuda::stream_of(ctx), args.scores.data<float>(), first_token * K, args.normalize,
                       args.scale, args.experts.data<std::int32_t>(), args.weights.data<float>(),
                       args.scores.extent(0), E, K);
    return;
  }
  for (std::int64_t t = 0; t < args.scores.extent(0); ++t) {
    deal({.first = (first_token + t) * K,
          .experts_count = E,
          .top_k = K,
          .scores = args.scores.data<float>() + t * E,
          .normalize = args.normalize,
          .scale = args.scale,
          .experts = args.experts.data<std::int32_t>() + t * K,
          .weights = args.weights.data<float>() + t * K});
  }
}

}  // namespace conclave
