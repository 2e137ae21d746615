// BalanceLoss on a GPU: the same terms, counted and added up by kernels.
#include "layers/cuda/add_sum.h"
#include "layers/cuda/arguments.h"
#include "layers/moe/balance_loss.h"
#include "layers/moe/gpu_tally.h"

namespace conclave {

BalanceGradient BalanceLoss::forward_on_gpu(Context& ctx, ConstTensorView probabilities,
                                            ConstTensorView experts, ConstTensorView log_sum_exp) {
  const auto global_tokens = static_cast<double>(ctx.batch.global_tokens());
  if (ctx.routing_sums != nullptr) {
    cuda::add_sum(cuda::stream_of(ctx), log_sum_exp.data<float>(), log_sum_exp.elements(),
                  /*of_squares=*/true, 1.0 / global_tokens, ctx.routing_sums->z_loss_raw);
  }
  BalanceGradient gradient;
  gradient.z_coefficient = static_cast<float>(beta_ / global_tokens);
  if (alpha_ > 0) gradient.dprobabilities = balance_on_gpu(ctx, probabilities, experts);
  return gradient;
}

ConstTensorView BalanceLoss::balance_on_gpu(Context& ctx, ConstTensorView probabilities,
                                            ConstTensorView experts) {
  const std::int64_t T = probabilities.extent(0);
  const std::int64_t E = probabilities.extent(1);
  const bool by_sequence = scope_ == config::Moe::sequence;
  const std::int64_t groups = by_sequence ? ctx.batch.sequences : 1;
  const TensorView dprobabilities = ctx.arena->allocate({groups, E});

  const Arena::Mark scratch(*ctx.arena);
  const TensorView counts = ctx.arena->allocate({groups, E}, DType::kInt64);
  const TensorView df = ctx.arena->allocate({groups, E}, DType::kFloat64);
  count_choices_on_gpu(ctx, experts, counts);
  cuda::balance_gradient(cuda::stream_of(ctx), counts.data<std::int64_t>(), alpha_,
                         static_cast<double>(ctx.batch.global_tokens()), groups, E, df.data<double>(),
                         dprobabilities.data<float>());
  if (ctx.routing_sums != nullptr) {
    const TensorView terms = ctx.arena->allocate({T}, DType::kFloat64);
    cuda::balance_terms(cuda::stream_of(ctx), probabilities.data<float>(), df.data<double>(),
                        by_sequence ? ctx.batch.sequence_length : T, T, E, terms.data<double>());
    cuda::add_sum(cuda::stream_of(ctx), terms.data<double>(), T, ctx.routing_sums->balance_loss_raw);
  }
  return dprobabilities;
}

void BalanceLoss::count_choices_on_gpu(Context& ctx, ConstTensorView experts, TensorView counts) {
  const std::int64_t groups = counts.extent(0);
  const std::int64_t E = counts.extent(1);
  const std::int64_t choices = experts.elements();
  const auto bytes = static_cast<std::size_t>(counts.elements()) * sizeof(std::int64_t);
  const cuda::Stream& stream = ctx.gpu->stream();
  const bool over_micro_batches = scope_ == config::Moe::global_batch;
  if (over_micro_batches && ctx.recomputing) {  // this micro-batch is among them
    cuda::copy(stream, counts.raw(), chosen_this_step_on_gpu_.view().raw(), bytes);
    return;
  }
  cuda::fill_with_zeros(stream, counts.raw(), bytes);
  if (choices > 0) {
    cuda::count_choices(stream.handle(), experts.data<std::int32_t>(), choices, choices / groups, E,
                        counts.data<std::int64_t>());
  }
  if (scope_ == config::Moe::sequence) return;
  {
    const Span span(ctx.clock, "sum of counts", TimePart::kReduction, ComparedCall::kReduction);
    ctx.grid->world().all_reduce(counts).wait();
  }
  if (!over_micro_batches) return;
  if (chosen_this_step_on_gpu_.view().raw() == nullptr)
    chosen_this_step_on_gpu_ = Buffer({E}, DType::kInt64, stream.device());
  cuda::accumulate_counts(stream.handle(), counts.data<std::int64_t>(),
                          chosen_this_step_on_gpu_.view().data<std::int64_t>(), ctx.batch.micro_step == 0, E);
}

}  // namespace conclave
