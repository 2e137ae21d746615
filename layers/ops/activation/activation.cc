#include "layers/ops/activation/activation.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_kind(config::Activation kind) {
  CONCLAVE_CHECK(kind == config::gelu || kind == config::relu, "{} is no activation of one element",
                 config::Activation_Name(kind));
}

}  // namespace

void activation(Context& ctx, const ActivationArgs& args) {
  check_kind(args.kind);
  check_matrix(args.up, "input of an activation");
  check_shape(args.h, args.up.shape(), "result of an activation");
  if (ctx.on_gpu()) {
    cuda::activation(cuda::stream_of(ctx), args.kind == config::relu, cuda::elements_of(args.up),
                     cuda::elements_of(args.h), args.h.elements());
    return;
  }
  cpu::activation(args);
}

void activation_backward(Context& ctx, const ActivationBackwardArgs& args) {
  check_kind(args.kind);
  check_matrix(args.up, "input of an activation");
  check_shape(args.dh, args.up.shape(), "dh of an activation");
  check_shape(args.dup, args.up.shape(), "dup of an activation");
  if (ctx.on_gpu()) {
    cuda::activation_backward(cuda::stream_of(ctx), args.kind == config::relu, cuda::elements_of(args.up),
                              cuda::elements_of(args.dh), cuda::elements_of(args.dup), args.dup.elements());
    return;
  }
  cpu::activation_backward(args);
}

}  // namespace conclave
