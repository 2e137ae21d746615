// Which way the data of a group takes.
#pragma once

namespace conclave {

enum class Path {
  kAuto,          // shared memory between ranks of one node, MPI between nodes
  kShared,        // the same; an error where a node gives no shared memory
  kMpi,           // MPI alone
  kHierarchical,  // as kAuto, and exchanges between nodes as one message for each pair of nodes
};

struct PathOptions {
  Path path = Path::kAuto;
  // Pretends that every `ranks_per_node` ranks of a node are a node of their own, for tests and measurements;
  // 0: nodes are what MPI reports.
  int ranks_per_node = 0;

  friend bool operator==(const PathOptions&, const PathOptions&) = default;
};

}  // namespace conclave
