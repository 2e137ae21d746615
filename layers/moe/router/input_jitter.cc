#include "layers/moe/router/input_jitter.h"

#include <algorithm>

#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/tensor/philox.h"

namespace conclave {

InputJitter::InputJitter(const config::Experiment& experiment, const std::string& router)
    : name_(router + "/jitter"),
      seed_(experiment.run().seed()),
      jitter_(static_cast<float>(experiment.moe().jitter())) {}

ConstTensorView InputJitter::forward(Context& ctx, ConstTensorView x) const {
  if (jitter_ == 0 || !ctx.training) return x;
  const TensorView noisy = ctx.arena->allocate(x.shape());
  scale(ctx, x, noisy);
  return noisy;
}

void InputJitter::backward(Context& ctx, TensorView dx) const {
  if (jitter_ > 0) scale(ctx, dx, dx);
}

void InputJitter::scale(const Context& ctx, ConstTensorView from, TensorView to) const {
  CONCLAVE_CHECK_EQ(from.extent(0), ctx.batch.tokens(), "tokens of the router's input noise");
  const RandomStream random(seed_, name_, static_cast<std::uint64_t>(ctx.batch.step));
  const std::int64_t first_token = ctx.batch.first_token_of_run();
  if (ctx.on_gpu()) {
    cuda::input_jitter(cuda::stream_of(ctx), cuda::key_of(random), first_token, jitter_, from.data<float>(),
                       to.data<float>(), from.extent(0), from.extent(1));
    return;
  }
  const std::int64_t width = from.extent(1);
  constexpr std::int64_t kDraws = 4;  // of one index of the stream
  const std::int64_t indices_a_token = (width + kDraws - 1) / kDraws;
  const float* all_from = from.data<float>();
  float* all_to = to.data<float>();

#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < from.extent(0); ++t) {
    for (std::int64_t i = 0; i < indices_a_token; ++i) {
      const auto uniform =
          random.uniform4(static_cast<std::uint64_t>((first_token + t) * indices_a_token + i));
      const std::int64_t begin = i * kDraws;
      const std::int64_t count = std::min(kDraws, width - begin);
      for (std::int64_t d = 0; d < count; ++d) {
        const std::int64_t at = t * width + begin + d;
        all_to[at] = all_from[at] * (1 - jitter_ + 2 * jitter_ * uniform[static_cast<std::size_t>(d)]);
      }
    }
  }
}

}  // namespace conclave
