// The end of an export: do the written files hold the model that was trained?
#pragma once

#include <filesystem>

#include "comm/base/dtype.h"
#include "configs/run.pb.h"

namespace conclave {

// The loss of one made-up batch, nats a token, by the weights of `checkpoint` rounded to `dtype`, and by the
// files in `directory`, read as any import would: configuration and tensors. Throws Error with both if they
// differ in any bit. One model is in memory at a time.
double self_check(const std::filesystem::path& checkpoint, const config::Experiment& experiment,
                  const std::filesystem::path& directory, DType dtype);

}  // namespace conclave
