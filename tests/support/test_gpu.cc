#include "tests/support/test_gpu.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <string_view>
#include <utility>

#include "comm/cuda/memory.h"
#include "comm/cuda/runtime.h"

namespace conclave::test {
namespace {

bool is_gpu_tested() {
  const char* device = std::getenv("CONCLAVE_TEST_DEVICE");
  return device != nullptr && std::string_view(device) == "cuda";
}

// Operators that are to be tested on a GPU are not tested where there is none.
class TestedDevice : public testing::Environment {
  void SetUp() override {
    if (is_gpu_tested() && cuda::gpus().empty()) GTEST_SKIP() << "no GPU here";
  }
};
[[maybe_unused]] const testing::Environment* const kTestedDevice =
    testing::AddGlobalTestEnvironment(new TestedDevice);  // owned by GoogleTest

// Of cuda::Memory: the same for all of it.
void (*give_gpu_memory_back)(void*) = nullptr;

}  // namespace

cuda::Engine* test_gpu() {
  static const bool is_there = is_gpu_tested() && !cuda::gpus().empty();
  if (!is_there) return nullptr;
  static cuda::Engine engine(0);
  return &engine;
}

void* take_tested_memory(std::size_t bytes) {
  if (test_gpu() == nullptr) return ::operator new(bytes);
  cuda::Memory memory = cuda::allocate(test_gpu()->device(), bytes);
  give_gpu_memory_back = memory.get_deleter();
  return memory.release();
}

void give_tested_memory_back(void* memory) {
  if (give_gpu_memory_back == nullptr) return ::operator delete(memory);
  give_gpu_memory_back(memory);
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
