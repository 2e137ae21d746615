// Which ranks of a group share a node.
#pragma once

#include <mpi.h>

#include <vector>

namespace conclave {

// A number for the node of this rank, the same on the ranks of one node. Collective over `comm`. With
// `ranks_per_node` > 0 every that many ranks of a node, in the order of `comm`, count as a node of their own.
int find_node(MPI_Comm comm, int ranks_per_node);

// How the ranks of a group lie on nodes.
struct NodeMap {
  std::vector<std::vector<int>> nodes;  // the ranks of each node, ascending; nodes by their first rank
  std::vector<int> node_of_rank;        // index into `nodes`
  std::vector<int> place_of_rank;       // index into nodes[node_of_rank]
};

// `node` as find_node() gave it for this rank. Collective over `comm`.
NodeMap map_nodes(MPI_Comm comm, int node);

// From the number of the node of every rank.
NodeMap map_nodes(const std::vector<int>& node_of_rank);

}  // namespace conclave
