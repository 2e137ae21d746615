#include "layers/ops/dropout/dropout.h"

#include "layers/cuda/arguments.h"
#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_rate(float rate) {
  CONCLAVE_CHECK(0 <= rate && rate < 1, "dropout needs a rate from 0 to below 1, found {}", rate);
}

}  // namespace

void dropout(Context& ctx, const DropoutArgs& args) {
  check_rate(args.rate);
  check_matrix(args.x, "input of dropout");
  check_shape(args.kept, args.x.shape(), "kept elements of dropout");
  CONCLAVE_CHECK_EQ(args.first_block.elements(), args.x.extent(0),
                    "first blocks of dropout, against its rows");
  if (ctx.on_gpu()) {
    const Arena::Mark scratch(*ctx.arena);
    cuda::dropout(cuda::stream_of(ctx), cuda::key_of(args.random),
                  cuda::on_gpu<std::int64_t>(ctx, args.first_block), args.rate, cuda::elements_of(args.x),
                  args.kept.data<std::uint8_t>(), args.x.extent(0), args.x.extent(1));
    return;
  }
  cpu::dropout(args);
}

void dropout_backward(Context& ctx, const DropoutBackwardArgs& args) {
  check_rate(args.rate);
  check_matrix(args.dx, "gradient of dropout");
  check_shape(args.kept, args.dx.shape(), "kept elements of dropout");
  if (ctx.on_gpu()) {
    cuda::dropout_backward(cuda::stream_of(ctx), args.kept.data<std::uint8_t>(), args.rate,
                           cuda::elements_of(args.dx), args.dx.elements());
    return;
  }
  cpu::dropout_backward(args);
}

}  // namespace conclave
