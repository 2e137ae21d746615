#include "layers/moe/experts.h"

#include "layers/ops/grouped_gemm/grouped_gemm.h"
#include "layers/ops/swiglu/swiglu.h"

namespace conclave {

Experts::Experts(const std::string& name, const ExpertsOptions& options)
    : d_ff_(options.d_ff),
      gate_up_(name + ".gate_up", {options.experts, 2 * options.d_ff, options.d_model},
               options.local_experts),
      down_(name + ".down",
            {options.experts, options.d_output > 0 ? options.d_output : options.d_model, options.d_ff},
            options.local_experts) {
  gate_up_.initialise_normal(options.seed, options.init_std);
  down_.initialise_normal(options.seed, options.output_init_std);
}

TensorView Experts::forward(Context& ctx, ConstTensorView rows, std::span<const std::int64_t> offsets) {
  const std::int64_t row_count = rows.extent(0);
  const TensorView y = ctx.arena->allocate({row_count, down_.value().extent(1)});  // [R, D_out]
  const TensorView gate_up_rows = ctx.arena->allocate({row_count, 2 * d_ff_});     // [R, 2F]
  const TensorView hidden = ctx.arena->allocate({row_count, d_ff_});               // [R, F]

  grouped_gemm(ctx, {.x = rows, .weights = gate_up_.value(), .offsets = offsets, .y = gate_up_rows});
  swiglu(ctx, {.gate_up = gate_up_rows, .h = hidden});
  grouped_gemm(ctx, {.x = hidden, .weights = down_.value(), .offsets = offsets, .y = y});

  if (ctx.training) {
    rows_ = rows;
    offsets_ = offsets;
    gate_up_rows_ = gate_up_rows;
    hidden_ = hidden;
  }
  return y;
}

TensorView Experts::backward(Context& ctx, ConstTensorView dy) {
  const TensorView drows = ctx.arena->allocate(rows_.shape());  // [R, D]
  const Arena::Mark scratch(*ctx.arena);
  const TensorView dhidden = ctx.arena->allocate(hidden_.shape());  // [R, F]
  const TensorView dgate_up = gate_up_rows_;  // [R, 2F]: the gradient takes the place of the value

  grouped_gemm_weight_gradient(ctx,
                               {.dy = dy, .x = hidden_, .offsets = offsets_, .dweights = down_.gradient()});
  grouped_gemm_input_gradient(ctx, {.dy = dy, .weights = down_.value(), .offsets = offsets_, .dx = dhidden});
  swiglu_backward(ctx, {.gate_up = gate_up_rows_, .dh = dhidden, .dgate_up = dgate_up});
  grouped_gemm_weight_gradient(
      ctx, {.dy = dgate_up, .x = rows_, .offsets = offsets_, .dweights = gate_up_.gradient()});
  grouped_gemm_input_gradient(
      ctx, {.dy = dgate_up, .weights = gate_up_.value(), .offsets = offsets_, .dx = drows});
  return drows;
}

void Experts::collect_parameters(std::vector<Parameter*>& parameters) {
  parameters.push_back(&gate_up_);
  parameters.push_back(&down_);
}

}  // namespace conclave
