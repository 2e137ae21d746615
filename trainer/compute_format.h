// precision.compute: the format of the factors of matrix products.
#pragma once

#include "comm/base/dtype.h"
#include "comm/communicator.h"
#include "configs/run.pb.h"

namespace conclave {

// fp32 or bf16, the same on every rank; `auto` is bf16 if every rank's processor multiplies it, as every GPU
// does. Collective. Throws the same ConfigError on every rank where bf16 is asked for and a rank can't, or
// the model has no bf16.
DType compute_format(const config::Experiment& experiment, Communicator& world, bool on_gpu = false);

}  // namespace conclave
