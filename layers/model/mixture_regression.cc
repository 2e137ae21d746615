#include "layers/model/mixture_regression.h"

#include <algorithm>
#include <utility>

#include "layers/ops/check_shape.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/mixture_loss/mixture_loss.h"
#include "layers/ops/permute/permute.h"

namespace conclave {
namespace {

ExpertsOptions expert_options(const config::Experiment& experiment, const ProcessGrid& grid) {
  const double init_std = experiment.model().init_std();
  return {.experts = experiment.moe().experts(),
          .local_experts = grid.local_experts(experiment.moe().experts()),
          .d_model = experiment.data().regression().inputs() + 1,
          .d_ff = experiment.moe().d_ff(),
          .seed = experiment.run().seed(),
          .init_std = init_std,
          .output_init_std = init_std,
          .d_output = experiment.data().regression().outputs(),
          .recompute = experiment.train().recompute() == config::Train::experts};
}

// [x, 1] of each row x.
void append_ones(ConstTensorView x, TensorView extended) {
  const std::int64_t width = x.extent(1);
  for (std::int64_t t = 0; t < x.extent(0); ++t) {
    float* row = std::copy_n(x.data<float>() + t * width, width, extended.data<float>() + t * (width + 1));
    *row = 1.0F;
  }
}

}  // namespace

MixtureRegression::MixtureRegression(const config::Experiment& experiment, const ProcessGrid& grid)
    : experts_count_(experiment.moe().experts()),
      inputs_(experiment.data().regression().inputs()),
      outputs_(experiment.data().regression().outputs()),
      sigma_(experiment.model().sigma()),
      gate_("gate.weight", {experts_count_, inputs_ + 1}),
      exchange_(experts_count_, grid, row_order(experiment)),
      experts_("experts", expert_options(experiment, grid)) {
  gate_.initialise_normal(experiment.run().seed(), experiment.model().init_std());
  parameters_.push_back(&gate_);
  experts_.collect_parameters(parameters_);
  moe_layers_.push_back({0, this});
  take_statistics();
}

ModelLoss MixtureRegression::forward(Context& ctx, ConstTensorView inputs, ConstTensorView targets) {
  const std::int64_t samples = ctx.batch.tokens();
  check_shape(inputs, {samples, inputs_}, "inputs of the regression");
  check_shape(targets, {samples, outputs_}, "targets of the regression");
  x_ = ctx.arena->allocate({samples, inputs_ + 1});
  ctx.synchronize();  // samples come from the host, and the plan is made there
  append_ones(inputs, x_);
  plan_all(ctx, samples);
  const TensorView logits = ctx.arena->allocate({samples, experts_count_});
  gemm(ctx, {.a = x_, .b = gate_.value(), .c = logits, .transpose_b = true});

  exchange_.agree(ctx, rows_of(plan_));
  TensorView rows = ctx.arena->allocate({plan_.rows(), inputs_ + 1});  // [T E, I + 1]
  gather_rows(ctx, {.x = x_, .choice_of_row = plan_.choice_of_row, .top_k = plan_.top_k, .rows = rows});
  rows = exchange_.dispatch(ctx, rows);                               // [R', I + 1], by local expert
  rows = experts_.forward(ctx, rows, exchange_.received_offsets(0));  // [R', O]
  const TensorView outputs = exchange_.combine(ctx, rows);            // [T E, O], in plan order

  const TensorView best = ctx.arena->allocate({samples}, DType::kInt32);
  MixtureLossArgs args{.logits = logits,
                       .outputs = outputs,
                       .row_of_choice = plan_.row_of_choice,
                       .targets = targets,
                       .sigma = sigma_,
                       .best = best};
  if (ctx.training) {
    args.dlogits = dlogits_ = ctx.arena->allocate(logits.shape());
    args.doutputs = doutputs_ = outputs;  // the gradient takes the place of the value
    args.scale = 1.0 / static_cast<double>(ctx.batch.loss_targets());
  }
  const MixtureLossResult result = mixture_loss(ctx, args);
  count(best.values<std::int32_t>(), result.entropy_sum);
  const TensorView ones = ctx.arena->allocate({samples, 1});
  std::ranges::fill(ones.values<float>(), 1.0F);
  routing_ = {best.reshaped({samples, 1}), ones};
  return {.loss_sum = result.loss_sum,
          .targets = samples,
          .squared_error_sum = result.squared_error_sum,
          .best_squared_error_sum = result.best_squared_error_sum};
}

void MixtureRegression::backward(Context& ctx) {
  gemm(ctx, {.a = dlogits_, .b = x_, .c = gate_.gradient(), .transpose_a = true, .accumulate = true});
  const TensorView dreceived = exchange_.dispatch(ctx, doutputs_);  // [R', O]: the way back of combine
  experts_.backward(ctx, dreceived);                                // nothing asks for the gradient of x
}

void MixtureRegression::plan_all(Context& ctx, std::int64_t samples) {
  const TensorView experts = ctx.arena->allocate({samples, experts_count_}, DType::kInt32);
  const TensorView weights = ctx.arena->allocate({samples, experts_count_});  // the loss has its own
  std::ranges::fill(weights.values<float>(), 0.0F);
  std::int64_t choice = 0;
  for (std::int32_t& expert : experts.values<std::int32_t>())
    expert = static_cast<std::int32_t>(choice++ % experts_count_);
  make_dispatch_plan({experts, weights}, experts_count_, /*capacity=*/samples, config::Moe::position, plan_);
}

void MixtureRegression::count(std::span<const std::int32_t> best, double entropy_sum) {
  statistics_.tokens += static_cast<std::int64_t>(best.size());
  statistics_.chosen_per_choice[0] += static_cast<std::int64_t>(best.size());
  exchange_.add_by_rank(plan_.kept_per_expert, statistics_.sent_per_rank);
  statistics_.router_entropy_sum += entropy_sum;
  for (const std::int32_t expert : best) ++statistics_.chosen_per_expert[static_cast<std::size_t>(expert)];
}

MoeStatistics MixtureRegression::take_statistics(MoeStatistics next) {
  next.chosen_per_expert.resize(static_cast<std::size_t>(experts_count_), 0);
  next.chosen_per_choice.resize(1, 0);
  next.dropped_per_choice.resize(1, 0);
  next.sent_per_rank.resize(static_cast<std::size_t>(exchange_.ranks()), 0);
  return std::exchange(statistics_, std::move(next));
}

}  // namespace conclave
