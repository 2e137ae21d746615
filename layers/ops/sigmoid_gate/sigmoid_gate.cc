#include "layers/ops/sigmoid_gate/sigmoid_gate.h"

#include "layers/ops/check_shape.h"

namespace conclave {

void sigmoid_gate(Context&, const SigmoidGateArgs& args) {
  check_matrix(args.x, "input of a sigmoid gate");
  check_shape(args.logits, {args.x.extent(0), 1}, "logits of a sigmoid gate");
  check_shape(args.y, args.x.shape(), "result of a sigmoid gate");
  cpu::sigmoid_gate(args);
}

void sigmoid_gate_backward(Context&, const SigmoidGateBackwardArgs& args) {
  check_matrix(args.x, "input of a sigmoid gate");
  check_shape(args.logits, {args.x.extent(0), 1}, "logits of a sigmoid gate");
  check_shape(args.dy, args.x.shape(), "dy of a sigmoid gate");
  check_shape(args.dlogits, args.logits.shape(), "dlogits of a sigmoid gate");
  check_shape(args.dx, args.x.shape(), "dx of a sigmoid gate");
  cpu::sigmoid_gate_backward(args);
}

}  // namespace conclave
