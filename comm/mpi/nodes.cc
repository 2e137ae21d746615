#include "comm/mpi/nodes.h"

#include <map>

#include "comm/base/error.h"

namespace conclave {

int find_node(MPI_Comm comm, int ranks_per_node) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm node = MPI_COMM_NULL;
  const int code = MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  CONCLAVE_CHECK(code == MPI_SUCCESS, "MPI_Comm_split_type into nodes failed with code {}", code);
  int place = 0;
  int size = 0;
  MPI_Comm_rank(node, &place);
  MPI_Comm_size(node, &size);
  std::vector<int> members(static_cast<std::size_t>(size));
  MPI_Allgather(&rank, 1, MPI_INT, members.data(), 1, MPI_INT, node);
  MPI_Comm_free(&node);
  const int first = ranks_per_node == 0 ? 0 : place / ranks_per_node * ranks_per_node;
  return members[static_cast<std::size_t>(first)];
}

NodeMap map_nodes(MPI_Comm comm, int node) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  std::vector<int> node_of_rank(static_cast<std::size_t>(size));
  MPI_Allgather(&node, 1, MPI_INT, node_of_rank.data(), 1, MPI_INT, comm);
  return map_nodes(node_of_rank);
}

NodeMap map_nodes(const std::vector<int>& node_of_rank) {
  NodeMap map;
  std::map<int, int> index_of_node;
  for (std::size_t rank = 0; rank < node_of_rank.size(); ++rank) {
    const auto [found, is_new] =
        index_of_node.emplace(node_of_rank[rank], static_cast<int>(map.nodes.size()));
    if (is_new) map.nodes.emplace_back();
    std::vector<int>& members = map.nodes[static_cast<std::size_t>(found->second)];
    map.node_of_rank.push_back(found->second);
    map.place_of_rank.push_back(static_cast<int>(members.size()));
    members.push_back(static_cast<int>(rank));
  }
  return map;
}

}  // namespace conclave
