// GPUs for tests. Programs that are linked with the emulation (tests/cuda_emulation) have as many as they ask
// for; those linked with CUDA itself have the machine's, whatever they ask for.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "layers/cuda/engine.h"

namespace conclave::test {

// The device that operators are tested on: CONCLAVE_TEST_DEVICE=cuda in the environment runs the same tests
// on GPU 0. Null for the host.
cuda::Engine* test_gpu();

// Memory that this device reaches, and the host as well.
void* take_tested_memory(std::size_t bytes);
void give_tested_memory_back(void* memory);

// A variable of the environment, until the end of the scope; then it is what it was.
class Environment {
 public:
  Environment(std::string name, const std::string& value);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::string name_;
  std::optional<std::string> before_;
};

struct EmulatedGpus : Environment {
  explicit EmulatedGpus(int count) : Environment("CONCLAVE_EMULATED_GPUS", std::to_string(count)) {}
};

}  // namespace conclave::test
