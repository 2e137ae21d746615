#include "layers/ops/activation/activation.h"

#include "layers/ops/check_shape.h"

namespace conclave {
namespace {

void check_kind(config::Activation kind) {
  CONCLAVE_CHECK(kind == config::gelu || kind == config::relu, "{} is no activation of one element",
                 config::Activation_Name(kind));
}

}  // namespace

void activation(Context&, const ActivationArgs& args) {
  check_kind(args.kind);
  check_matrix(args.up, "input of an activation");
  check_shape(args.h, args.up.shape(), "result of an activation");
  cpu::activation(args);
}

void activation_backward(Context&, const ActivationBackwardArgs& args) {
  check_kind(args.kind);
  check_matrix(args.up, "input of an activation");
  check_shape(args.dh, args.up.shape(), "dh of an activation");
  check_shape(args.dup, args.up.shape(), "dup of an activation");
  cpu::activation_backward(args);
}

}  // namespace conclave
