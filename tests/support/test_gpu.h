// GPUs for tests. Programs that are linked with the emulation (tests/cuda_emulation) have as many as they ask
// for; those linked with CUDA itself have the machine's, whatever they ask for.
#pragma once

#include <optional>
#include <string>

#include "layers/cuda/engine.h"

namespace conclave::test {

// The device that operators are tested on: CONCLAVE_TEST_DEVICE=cuda in the environment runs the same tests
// on GPU 0. Null for the host.
cuda::Engine* test_gpu();

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
