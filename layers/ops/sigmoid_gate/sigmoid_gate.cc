#include "layers/ops/sigmoid_gate/sigmoid_gate.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {

void sigmoid_gate(Context& ctx, const SigmoidGateArgs& args) {
  check_matrix(args.x, "input of a sigmoid gate");
  check_shape(args.logits, {args.x.extent(0), 1}, "logits of a sigmoid gate");
  check_shape(args.y, args.x.shape(), "result of a sigmoid gate");
  if (ctx.on_gpu()) {
    cuda::sigmoid_gate(cuda::stream_of(ctx), args.logits.data<float>(), args.x.data<float>(),
                       args.y.data<float>(), args.x.extent(0), args.x.extent(1));
    return;
  }
  cpu::sigmoid_gate(args);
}

void sigmoid_gate_backward(Context& ctx, const SigmoidGateBackwardArgs& args) {
  check_matrix(args.x, "input of a sigmoid gate");
  check_shape(args.logits, {args.x.extent(0), 1}, "logits of a sigmoid gate");
  check_shape(args.dy, args.x.shape(), "dy of a sigmoid gate");
  check_shape(args.dlogits, args.logits.shape(), "dlogits of a sigmoid gate");
  check_shape(args.dx, args.x.shape(), "dx of a sigmoid gate");
  if (ctx.on_gpu()) {
    cuda::sigmoid_gate_backward(cuda::stream_of(ctx), args.logits.data<float>(), args.x.data<float>(),
                                args.dy.data<float>(), args.dlogits.data<float>(), args.dx.data<float>(),
                                args.x.extent(0), args.x.extent(1));
    return;
  }
  cpu::sigmoid_gate_backward(args);
}

}  // namespace conclave
