#include "layers/feed_forward/hidden_layer.h"

#include "layers/ops/activation/activation.h"
#include "layers/ops/swiglu/swiglu.h"

namespace conclave {

std::int64_t input_projections(config::Activation kind) { return kind == config::swiglu ? 2 : 1; }

std::string input_projection_name(config::Activation kind) {
  return kind == config::swiglu ? ".gate_up" : ".up";
}

void hidden_layer(Context& ctx, config::Activation kind, ConstTensorView preactivation, TensorView h) {
  if (kind == config::swiglu) {
    swiglu(ctx, {.gate_up = preactivation, .h = h});
  } else {
    activation(ctx, {.kind = kind, .up = preactivation, .h = h});
  }
}

void hidden_layer_backward(Context& ctx, config::Activation kind, ConstTensorView preactivation,
                           ConstTensorView dh, TensorView dpreactivation) {
  if (kind == config::swiglu) {
    swiglu_backward(ctx, {.gate_up = preactivation, .dh = dh, .dgate_up = dpreactivation});
  } else {
    activation_backward(ctx, {.kind = kind, .up = preactivation, .dh = dh, .dup = dpreactivation});
  }
}

}  // namespace conclave
