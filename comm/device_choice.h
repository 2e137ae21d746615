// Which GPU each rank of a job computes on.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace conclave {

// What a rank knows of its GPUs.
struct RankGpus {
  int node = 0;                          // a number for its node, the same on the ranks of one node
  std::string host;                      // for messages
  std::vector<std::string> pci_bus_ids;  // of the GPUs that it may use, by CUDA's index
};

// For each rank the index of its GPU among those that it may use: local rank i of a node gets GPU i where all
// see the same GPUs, and one of its own as well where a launcher shows each rank others. Ranks beyond the
// number of GPUs start anew with the first, so that neighbours never share one as long as there are others.
//
// Throws ConfigError where a rank sees no GPU, or where ranks would have to share one and `allow_sharing` is
// false. A function of its arguments alone: with those of all ranks it gives, or throws, the same on every
// rank.
std::vector<int> choose_gpus(std::span<const RankGpus> ranks, bool allow_sharing);

}  // namespace conclave
