#include "layers/cuda/factor.h"

#include "layers/cuda/arguments.h"

namespace conclave::cuda {

ConstTensorView as_factor(Context& ctx, const ConstTensorView& tensor, DType dtype) {
  if (tensor.dtype() == dtype) return tensor;
  CONCLAVE_CHECK(ctx.on_gpu(), "a product on the host was to convert a factor from {} to {}",
                 name_of(tensor.dtype()), name_of(dtype));
  const TensorView converted = ctx.arena->allocate(tensor.shape(), dtype);
  convert(stream_of(ctx), elements_of(tensor), elements_of(converted), tensor.elements());
  return converted;
}

}  // namespace conclave::cuda
