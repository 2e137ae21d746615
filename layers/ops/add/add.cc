#include "layers/ops/add/add.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {

void add(Context& ctx, const AddArgs& args) {
  check_shape(args.b, args.a.shape(), "second term of add");
  check_shape(args.sum, args.a.shape(), "result of add");
  if (ctx.on_gpu()) {
    cuda::add(cuda::stream_of(ctx), args.a.data<float>(), args.b.data<float>(), args.sum.data<float>(),
              args.a.elements());
    return;
  }
  cpu::add(args);
}

}  // namespace conclave
