#include "layers/moe/shared_experts.h"

#include "layers/model/initialisation.h"
#include "layers/ops/gemm/gemm.h"
#include "layers/ops/sigmoid_gate/sigmoid_gate.h"

namespace conclave {

SharedExperts::SharedExperts(const config::Experiment& experiment, const std::string& name)
    : feed_forward_(name + ".shared", experiment.model().d_model(),
                    experiment.moe().shared_experts() * experiment.moe().d_ff(),
                    experiment.model().init_std(), residual_init_std(experiment.model()),
                    experiment.run().seed(), experiment.moe().activation()) {
  if (!experiment.moe().shared_gate()) return;
  gate_.emplace(name + ".shared_gate", Shape{1, experiment.model().d_model()});
  gate_->initialise_normal(experiment.run().seed(), experiment.model().init_std());
}

TensorView SharedExperts::forward(Context& ctx, ConstTensorView x) {
  const TensorView ungated = feed_forward_.forward(ctx, x);  // [T, D]
  if (!gate_) return ungated;

  const TensorView logits = ctx.arena->allocate({x.extent(0), 1});
  gemm(ctx, {.a = x, .b = gate_->value(), .c = logits, .transpose_b = true});
  const TensorView y = ctx.training ? ctx.arena->allocate(x.shape()) : ungated;  // [T, D]
  sigmoid_gate(ctx, {.logits = logits, .x = ungated, .y = y});
  if (ctx.training) {
    x_ = x;
    logits_ = logits;
    ungated_ = ungated;
  }
  return y;
}

TensorView SharedExperts::backward(Context& ctx, ConstTensorView dy) {
  if (!gate_) return feed_forward_.backward(ctx, dy);

  const TensorView dlogits = ctx.arena->allocate(logits_.shape());  // [T, 1]
  const TensorView dungated = ungated_;  // [T, D]: the gradient takes the place of the value
  sigmoid_gate_backward(ctx,
                        {.logits = logits_, .x = ungated_, .dy = dy, .dlogits = dlogits, .dx = dungated});
  const TensorView dx = feed_forward_.backward(ctx, dungated);  // [T, D]
  gemm(ctx, {.a = dlogits, .b = gate_->value(), .c = dx, .accumulate = true});
  gemm(ctx, {.a = dlogits, .b = x_, .c = gate_->gradient(), .transpose_a = true, .accumulate = true});
  return dx;
}

void SharedExperts::collect_parameters(std::vector<Parameter*>& parameters) {
  feed_forward_.collect_parameters(parameters);
  if (gate_) parameters.push_back(&*gate_);
}

}  // namespace conclave
