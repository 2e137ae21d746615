#include "tests/support/test_gpu.h"

#include <cstdlib>
#include <string_view>

namespace conclave::test {

cuda::Engine* test_gpu() {
  const char* device = std::getenv("CONCLAVE_TEST_DEVICE");
  if (device == nullptr || std::string_view(device) != "cuda") return nullptr;
  static cuda::Engine engine(0);
  return &engine;
}

}  // namespace conclave::test
