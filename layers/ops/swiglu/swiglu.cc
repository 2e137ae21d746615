#include "layers/ops/swiglu/swiglu.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {

void swiglu(Context& ctx, const SwigluArgs& args) {
  check_matrix(args.h, "result of swiglu");
  check_shape(args.gate_up, {args.h.extent(0), 2 * args.h.extent(1)}, "gate_up of swiglu");
  if (ctx.on_gpu()) {
    cuda::swiglu(cuda::stream_of(ctx), cuda::elements_of(args.gate_up), cuda::elements_of(args.h),
                 args.h.extent(0), args.h.extent(1));
    return;
  }
  cpu::swiglu(args);
}

void swiglu_backward(Context& ctx, const SwigluBackwardArgs& args) {
  check_matrix(args.dh, "dh of swiglu");
  check_shape(args.gate_up, {args.dh.extent(0), 2 * args.dh.extent(1)}, "gate_up of swiglu");
  check_shape(args.dgate_up, args.gate_up.shape(), "dgate_up of swiglu");
  if (ctx.on_gpu()) {
    cuda::swiglu_backward(cuda::stream_of(ctx), cuda::elements_of(args.gate_up), cuda::elements_of(args.dh),
                          cuda::elements_of(args.dgate_up), args.dh.extent(0), args.dh.extent(1));
    return;
  }
  cpu::swiglu_backward(args);
}

}  // namespace conclave
