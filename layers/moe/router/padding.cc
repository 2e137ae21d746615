#include "layers/moe/router/padding.h"

#include <algorithm>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/routing.h"

namespace conclave {

void clear_padding(Context& ctx, TensorView rows) {
  if (ctx.padding.elements() == 0 || rows.elements() == 0) return;
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::clear_padding(cuda::stream_of(ctx), cuda::on_gpu<std::uint8_t>(ctx, ctx.padding),
                        rows.data<float>(), rows.extent(0), rows.elements() / rows.extent(0));
    return;
  }
  for (std::int64_t t = 0; t < rows.extent(0); ++t) {
    if (ctx.is_padding(t)) std::ranges::fill(rows.rows(t, t + 1).values<float>(), 0.0F);
  }
}

TensorView without_padding(Context& ctx, TensorView chosen) {
  if (ctx.padding.elements() == 0) return chosen;
  const TensorView experts = ctx.arena->allocate(chosen.shape(), DType::kInt32);
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::without_padding(cuda::stream_of(ctx), cuda::on_gpu<std::uint8_t>(ctx, ctx.padding),
                          chosen.data<std::int32_t>(), experts.data<std::int32_t>(), chosen.extent(0),
                          chosen.extent(1));
    return experts;
  }
  std::ranges::copy(chosen.values<std::int32_t>(), experts.values<std::int32_t>().begin());
  for (std::int64_t t = 0; t < experts.extent(0); ++t) {
    if (ctx.is_padding(t)) std::ranges::fill(experts.rows(t, t + 1).values<std::int32_t>(), kNoExpert);
  }
  return experts;
}

}  // namespace conclave
