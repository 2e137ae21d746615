#include "tests/support/test_gpu.h"

#include <cstdlib>
#include <string_view>
#include <utility>

namespace conclave::test {

cuda::Engine* test_gpu() {
  const char* device = std::getenv("CONCLAVE_TEST_DEVICE");
  if (device == nullptr || std::string_view(device) != "cuda") return nullptr;
  static cuda::Engine engine(0);
  return &engine;
}

Environment::Environment(std::string name, const std::string& value) : name_(std::move(name)) {
  if (const char* before = std::getenv(name_.c_str())) before_ = before;
  setenv(name_.c_str(), value.c_str(), /*overwrite=*/1);
}
Environment::~Environment() {
  if (before_) {
    setenv(name_.c_str(), before_->c_str(), /*overwrite=*/1);
  } else {
    unsetenv(name_.c_str());
  }
}

}  // namespace conclave::test
