#include "layers/ops/swiglu/swiglu.h"

#include "layers/ops/check_shape.h"

namespace conclave {

void swiglu(Context&, const SwigluArgs& args) {
  check_matrix(args.h, "result of swiglu");
  check_shape(args.gate_up, {args.h.extent(0), 2 * args.h.extent(1)}, "gate_up of swiglu");
  cpu::swiglu(args);
}

void swiglu_backward(Context&, const SwigluBackwardArgs& args) {
  check_matrix(args.dh, "dh of swiglu");
  check_shape(args.gate_up, {args.dh.extent(0), 2 * args.dh.extent(1)}, "gate_up of swiglu");
  check_shape(args.dgate_up, args.gate_up.shape(), "dgate_up of swiglu");
  cpu::swiglu_backward(args);
}

}  // namespace conclave
