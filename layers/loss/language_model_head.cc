#include "layers/loss/language_model_head.h"

namespace conclave {

LanguageModelHead::LanguageModelHead(std::int64_t vocab_size, std::int64_t d_model, double init_std,
                                     std::uint64_t seed)
    : own_(std::in_place, "head.weight", Shape{vocab_size, d_model}), weight_(&*own_), products_(*own_) {
  weight_->initialise_normal(seed, init_std);
}

LanguageModelHead::LanguageModelHead(Parameter& tied) : weight_(&tied), products_(tied) {}

LinearCrossEntropyResult LanguageModelHead::forward(Context& ctx, ConstTensorView h, ConstTensorView targets,
                                                    float scale, TensorView losses) {
  LinearCrossEntropyArgs args{.h = h, .weight = weight_->value(), .targets = targets};
  args.losses = losses;
  if (ctx.on_gpu()) {
    args.weight = products_.on_gpu(ctx);
  } else if (ctx.compute == DType::kBFloat16) {
    args.packed_for_forward = products_.packed_for_forward(ctx);
    if (ctx.training) args.packed_for_input_gradient = products_.packed_for_input_gradient(ctx);
  }
  if (ctx.training) {
    dh_ = ctx.arena->allocate(h.shape());
    args.dh = dh_;
    args.dweight = weight_->gradient();
    args.scale = scale;
  }
  return linear_cross_entropy(ctx, args);
}

TensorView LanguageModelHead::backward(Context&) { return dh_; }

TensorView LanguageModelHead::logits(Context& ctx, ConstTensorView h) {
  const TensorView logits = ctx.arena->allocate({h.extent(0), weight_->value().extent(0)});
  products_.forward(ctx, h, logits);
  return logits;
}

void LanguageModelHead::collect_parameters(std::vector<Parameter*>& parameters) {
  if (own_) parameters.push_back(&*own_);
}

}  // namespace conclave
