#include "layers/ops/add/add.h"

#include "layers/ops/check_shape.h"

namespace conclave {

void add(Context&, const AddArgs& args) {
  check_shape(args.b, args.a.shape(), "second term of add");
  check_shape(args.sum, args.a.shape(), "result of add");
  cpu::add(args);
}

}  // namespace conclave
