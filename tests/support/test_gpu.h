// The device that operators are tested on: CONCLAVE_TEST_DEVICE=cuda in the environment runs the same tests on GPU 0.
#pragma once

#include "layers/cuda/engine.h"

namespace conclave::test {

// Null for the host.
cuda::Engine* test_gpu();

}  // namespace conclave::test
