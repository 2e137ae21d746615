#include "layers/moe/dispatched_rows.h"

#include <algorithm>

#include "layers/cuda/arguments.h"

namespace conclave {
namespace {

cuda::DropOrder order_of(config::Moe::Drop drop) {
  switch (drop) {
    case config::Moe::position:
      return cuda::DropOrder::kPosition;
    case config::Moe::probability:
      return cuda::DropOrder::kProbability;
    case config::Moe::batch_prioritized:
      return cuda::DropOrder::kBatchPrioritized;
  }
  return cuda::DropOrder::kPosition;
}

}  // namespace

DispatchedRows dispatch_on_gpu(Context& ctx, const Routing& routing, const GpuDispatchArgs& args) {
  const std::int64_t tokens = routing.experts.extent(0);
  const std::int64_t top_k = routing.experts.extent(1);
  const std::int64_t choices = tokens * top_k;
  check_choices(tokens, top_k);
  if (args.fill_up) check_filled_rows(args.experts, args.capacity);
  // Of all experts together, which may have less room than there are choices.
  const std::int64_t rows =
      args.fill_up ? args.experts * args.capacity : std::min(choices, args.experts * args.capacity);

  const TensorView expert_offsets = ctx.arena->allocate({args.experts + 1}, DType::kInt64);
  const TensorView choice_of_row = ctx.arena->allocate({rows}, DType::kInt32);
  const TensorView row_of_choice = ctx.arena->allocate({choices}, DType::kInt32);
  cuda::DispatchPlanProblem problem{.tokens = tokens,
                                    .top_k = top_k,
                                    .experts = args.experts,
                                    .capacity = args.capacity,
                                    .rows_per_expert = args.fill_up ? args.capacity : 0,
                                    .drop = order_of(args.drop),
                                    .chosen = routing.experts.data<std::int32_t>(),
                                    .weights = routing.weights.data<float>(),
                                    .rows = rows,
                                    .expert_offsets = expert_offsets.data<std::int64_t>(),
                                    .choice_of_row = choice_of_row.data<std::int32_t>(),
                                    .row_of_choice = row_of_choice.data<std::int32_t>()};
  const Arena::Mark scratch(*ctx.arena);
  problem.scratch =
      ctx.arena->allocate({cuda::dispatch_plan_scratch(problem)}, DType::kInt32).data<std::int32_t>();
  cuda::make_dispatch_plan(cuda::stream_of(ctx), problem);
  if (args.counts != nullptr) {
    cuda::count_dispatched(cuda::stream_of(ctx), problem.chosen, problem.row_of_choice, tokens, top_k,
                           *args.counts);
  }
  return {expert_offsets, choice_of_row, row_of_choice};
}

}  // namespace conclave
