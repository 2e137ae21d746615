#include "layers/moe/router/linear_gate.h"

#include <utility>

#include "layers/ops/gemm/gemm.h"

namespace conclave {

LinearGate::LinearGate(std::string name, std::int64_t outputs, std::int64_t d_model)
    : weight_(std::move(name), {outputs, d_model}) {}

void LinearGate::forward(Context& ctx, ConstTensorView x, TensorView logits) const {
  gemm(ctx, {.a = x, .b = weight_.value(), .c = logits, .transpose_b = true});
}

void LinearGate::backward(Context& ctx, ConstTensorView x, ConstTensorView dlogits, TensorView dx,
                          bool accumulate) const {
  gemm(ctx, {.a = dlogits, .b = weight_.value(), .c = dx, .accumulate = accumulate});
  gemm(ctx, {.a = dlogits, .b = x, .c = weight_.gradient(), .transpose_a = true, .accumulate = true});
}

}  // namespace conclave
