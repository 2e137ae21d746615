// An all-to-all over several nodes in which only one message passes between each pair of nodes.
//
//   gather    inside the node: what goes to node b is collected by one rank, b's carrier
//   between   the carriers of a pair of nodes exchange one message each way
//   scatter   inside the node: carriers hand out what came
//
// Node pairs are dealt round the ranks of a node, so that several carriers share the work. Every byte is
// copied about three times more than on the direct way, and P^2 messages become N^2: it pays where messages
// are small and the way between nodes is long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/nodes.h"

namespace conclave {

class HierarchicalExchange {
 public:
  // What goes to and comes from one rank of another node.
  struct Message {
    int peer;
    std::vector<std::byte> sent;
    std::vector<std::byte> received;  // of the right size already
  };
  // Exchanges all messages and returns when they are complete.
  using Between = std::function<void(std::span<Message>)>;

  // `map` is that of the group, `node` its ranks on the node of `rank`, in the same order.
  HierarchicalExchange(NodeMap map, int rank, std::unique_ptr<Communicator> node);

  // Collective over the group. Blocks are in bytes.
  void run(const std::byte* send, const Blocks& send_blocks, std::byte* recv, const Blocks& recv_blocks,
           const Between& between);

 private:
  // The rank of node `from` that deals with node `to`.
  int carrier(int from, int to) const;
  bool carries(int place, int node) const;  // a rank of this node
  const std::vector<int>& members(int node) const { return map_.nodes[static_cast<std::size_t>(node)]; }
  int nodes() const { return static_cast<int>(map_.nodes.size()); }
  int places() const { return static_cast<int>(members(here_).size()); }
  // Bytes that the rank at `place` of this node sends to `rank`, or gets from it.
  std::int64_t sent(int place, int rank) const;
  std::int64_t got(int place, int rank) const;

  void share_counts(std::span<const std::int64_t> send_bytes, std::span<const std::int64_t> recv_bytes);
  void gather(const std::byte* send, const Blocks& send_blocks);
  // What was gathered for other nodes, as messages; what is for this rank goes to `recv`.
  void pack_messages(std::byte* recv, const Blocks& recv_blocks);
  void scatter(std::byte* recv, const Blocks& recv_blocks);
  void exchange_inside();  // outgoing_ by send_counts_ -> incoming_ by recv_counts_

  NodeMap map_;
  int here_;   // this rank's node
  int place_;  // its place there
  std::unique_ptr<Communicator> node_;

  std::vector<std::int64_t> counts_;       // [places, 2, ranks]: bytes sent, bytes got
  std::vector<std::int64_t> own_counts_;   // [2, ranks]
  std::vector<std::int64_t> send_counts_;  // [places]
  std::vector<std::int64_t> recv_counts_;  // [places]
  std::vector<std::byte> outgoing_;
  std::vector<std::byte> incoming_;
  std::vector<Message> messages_;  // one for each node that this rank carries, in the order of nodes
};

}  // namespace conclave
