// What this program and this machine have for computing on GPUs, and what is missing.
#pragma once

#include <string>
#include <vector>

#include "comm/cuda/runtime.h"
#include "comm/cuda/system.h"

namespace conclave {

struct GpuFacts {
  bool has_cuda = false;  // of the build
  std::string cuda = {};  // "CUDA 13.0", or why not
  bool has_nccl = false;
  std::string nccl = {};
  cuda::System system = {};
  std::vector<cuda::Gpu> gpus = {};
  std::vector<int> numa_nodes = {};            // [gpus]; -1: the host doesn't say
  std::vector<std::vector<bool>> access = {};  // [gpus, gpus]: the first reads the second's memory
};

GpuFacts read_gpu_facts();

// Lines that say it, a table of the GPUs if there are any, and for each thing that is missing how to mend it.
std::string gpu_report(const GpuFacts& facts);

}  // namespace conclave
