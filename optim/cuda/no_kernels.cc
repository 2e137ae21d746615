// The optimizer's kernels in a build without CUDA: nothing gets here, as in layers/cuda/no_kernels.cc.
#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "optim/cuda/kernels.h"

namespace conclave::cuda {

void adamw(StreamHandle, const AdamWCoefficientsByKind&, const AdamWPiece*, std::int64_t) {
  throw Error(description());
}
void sums_of_squares(StreamHandle, const SquaresBlock*, double*, std::int64_t) { throw Error(description()); }

}  // namespace conclave::cuda
