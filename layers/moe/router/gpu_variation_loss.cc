// VariationLoss on a GPU: the same terms, added up by kernels.
#include "layers/cuda/add_sum.h"
#include "layers/cuda/arguments.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/gpu_tally.h"
#include "layers/moe/router/variation_loss.h"

namespace conclave {
namespace {

// Without padding, of which the host knows.
std::vector<double> tokens_of_sets(const Context& ctx, std::int64_t sets, std::int64_t tokens_a_set) {
  std::vector<double> tokens(static_cast<std::size_t>(sets), static_cast<double>(tokens_a_set));
  if (ctx.padding.elements() == 0) return tokens;
  for (std::int64_t t = 0; t < sets * tokens_a_set; ++t)
    tokens[static_cast<std::size_t>(t / tokens_a_set)] -= ctx.is_padding(t) ? 1 : 0;
  return tokens;
}

}  // namespace

VariationGradient VariationLoss::forward_on_gpu(Context& ctx, const Sets& sets, ConstTensorView experts,
                                                ConstTensorView gates, ConstTensorView load) const {
  const std::int64_t E = experts_;
  const TensorView dgates = ctx.arena->allocate({importance_weight_ > 0 ? sets.count : 0, E});
  const TensorView dload = ctx.arena->allocate({load_weight_ > 0 ? sets.count : 0, E});

  const Arena::Mark scratch(*ctx.arena);
  const std::vector<double> tokens = tokens_of_sets(ctx, sets.count, sets.tokens);
  const double* tokens_of_set = cuda::upload(ctx, std::span(tokens));
  const TensorView sums = ctx.arena->allocate({sets.count, 2 * E + 1}, DType::kFloat64);
  const cuda::StreamHandle stream = cuda::stream_of(ctx);
  cuda::variation_sums(stream, experts.data<std::int32_t>(), gates.data<float>(),
                       has_load() ? load.data<float>() : nullptr, tokens_of_set, sets.tokens, sets.count,
                       experts.extent(1), E, sums.data<double>());
  if (!by_sequence_) {
    const Span span(ctx.clock, "sum of loads", TimePart::kReduction, ComparedCall::kReduction);
    ctx.grid->world().all_reduce(sums).wait();
  }
  const TensorView terms = ctx.arena->allocate({sets.count}, DType::kFloat64);
  const auto take = [&](std::int64_t first, double weight, TensorView dvalues, double* RoutingSums::*raw) {
    if (weight == 0) return;
    cuda::variation_gradient(stream, sums.data<double>(), first, tokens_of_set,
                             static_cast<double>(ctx.batch.global_tokens()), weight, sets.count, E,
                             terms.data<double>(), dvalues.data<float>());
    if (ctx.routing_sums != nullptr)
      cuda::add_sum(stream, terms.data<double>(), sets.count, ctx.routing_sums->*raw);
  };
  take(0, importance_weight_, dgates, &RoutingSums::importance_loss_raw);
  take(E, load_weight_, dload, &RoutingSums::load_loss_raw);
  return {dgates, dload};
}

}  // namespace conclave
