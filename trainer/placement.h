// Which GPU, host and processors each rank of a job computes on.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "configs/run.pb.h"

namespace conclave {

// For the start-up report.
struct RankPlace {
  std::string host;
  std::string gpu;         // by CUDA's index
  std::string name;        // "NVIDIA H200"
  std::string pci_bus_id;  // "0000:3b:00.0"
  std::string numa_node;   // "-" if the host doesn't say
  std::string cores;       // that its threads run on: "0-31, 64-95"
};

struct Placement {
  int gpu = 0;                   // of this rank, by CUDA's index
  std::vector<RankPlace> ranks;  // of the world, in the order of ranks
};

// Collective over `world`: a GPU for each rank (comm/device_choice.h). Where the host has several NUMA nodes,
// the threads that this rank starts from now on run beside its GPU. Throws the same ConfigError on every rank
// where one sees no GPU, or would have to share one and run.allow_gpu_sharing is false.
Placement place_on_gpus(const config::Run& run, Communicator& world);

// The table of the start-up report.
std::string describe(const Placement& placement);

}  // namespace conclave
