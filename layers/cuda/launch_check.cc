#include "layers/cuda/launch_check.h"

#include "comm/base/error.h"

namespace conclave::cuda {

void refuse_launch(const char* kernel, const char* words) {
  throw Error(fmt::format("CUDA: the launch of {} failed: {}", kernel, words));
}

}  // namespace conclave::cuda
