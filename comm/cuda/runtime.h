// The GPUs of this host. Declared in every build: without CUDA (no_cuda.cc) there are none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conclave::cuda {

struct Gpu {
  int index = 0;  // among the GPUs that this process may see
  std::string name;
  std::int64_t memory_bytes = 0;
  int compute_major = 0;  // compute capability 9.0: 9 and 0
  int compute_minor = 0;
  int multiprocessors = 0;
  std::string pci_bus_id;  // "0000:3b:00.0": the same for every process of the host

  friend bool operator==(const Gpu&, const Gpu&) = default;
};

// "CUDA 13.0", or why this program can't use a GPU and how to get one that can: for reports and errors.
bool is_built_in();
std::string description();

// Empty where there is no GPU, no driver, or no CUDA in this build. Throws Error if the driver fails.
std::vector<Gpu> gpus();

// The GPU that the calling thread allocates and launches on from now on. Throws Error if there is no such
// GPU.
void select(int index);

}  // namespace conclave::cuda
