#include "layers/ops/dropout/dropout.h"

#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_rate(float rate) {
  CONCLAVE_CHECK(0 <= rate && rate < 1, "dropout needs a rate from 0 to below 1, found {}", rate);
}

}  // namespace

void dropout(Context&, const DropoutArgs& args) {
  check_rate(args.rate);
  check_matrix(args.x, "input of dropout");
  check_shape(args.kept, args.x.shape(), "kept elements of dropout");
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(args.first_block.size()), args.x.extent(0),
                    "first blocks of dropout, against its rows");
  cpu::dropout(args);
}

void dropout_backward(Context&, const DropoutBackwardArgs& args) {
  check_rate(args.rate);
  check_matrix(args.dx, "gradient of dropout");
  check_shape(args.kept, args.dx.shape(), "kept elements of dropout");
  cpu::dropout_backward(args);
}

}  // namespace conclave
