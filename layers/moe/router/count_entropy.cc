#include "layers/moe/router/count_entropy.h"

#include "layers/cuda/add_sum.h"
#include "layers/cuda/arguments.h"
#include "layers/moe/gpu_tally.h"

namespace conclave {

void count_entropy(const Context& ctx, ConstTensorView entropy, MoeStatistics& statistics) {
  if (!ctx.on_gpu()) {
    for (const float value : entropy.values<float>()) statistics.router_entropy_sum += value;
  } else if (ctx.routing_sums != nullptr) {
    cuda::add_sum(cuda::stream_of(ctx), entropy.data<float>(), entropy.elements(), /*of_squares=*/false, 1.0,
                  ctx.routing_sums->router_entropy_sum);
  }
}

}  // namespace conclave
