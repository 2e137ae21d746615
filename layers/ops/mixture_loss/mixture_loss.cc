#include "layers/ops/mixture_loss/mixture_loss.h"

#include "layers/ops/check_shape.h"

namespace conclave {

MixtureLossResult mixture_loss(Context&, const MixtureLossArgs& args) {
  check_matrix(args.logits, "logits of mixture_loss");
  check_matrix(args.targets, "targets of mixture_loss");
  const std::int64_t samples = args.logits.extent(0);
  const std::int64_t experts = args.logits.extent(1);
  const std::int64_t width = args.targets.extent(1);
  CONCLAVE_CHECK(experts > 0 && args.sigma > 0, "mixture_loss: {} experts, sigma {}", experts, args.sigma);
  check_shape(args.targets, {samples, width}, "targets of mixture_loss");
  check_shape(args.outputs, {samples * experts, width}, "outputs of mixture_loss");
  check_shape(args.best, {samples}, "best of mixture_loss");
  CONCLAVE_CHECK_EQ(static_cast<std::int64_t>(args.row_of_choice.size()), samples * experts,
                    "rows of mixture_loss");
  const bool gradients = args.dlogits.elements() > 0;
  CONCLAVE_CHECK_EQ(gradients, args.doutputs.elements() > 0, "mixture_loss: both gradients or neither");
  if (gradients) {
    check_shape(args.dlogits, args.logits.shape(), "dlogits of mixture_loss");
    check_shape(args.doutputs, args.outputs.shape(), "doutputs of mixture_loss");
  }
  return cpu::mixture_loss(args);
}

}  // namespace conclave
