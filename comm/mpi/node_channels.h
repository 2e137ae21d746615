// Messages between the ranks of a group that share a node, through an MPI shared window.
//
// Every ordered pair of ranks has a ring of slots in the sender's part of the window. The sender copies the
// next piece of its oldest message into a free slot and raises the slot's number; the receiver, which sees
// the number rise, copies the piece to its place and raises its count of slots that are free again. A message
// of any length passes through; nothing is agreed on, grown or allocated after the window is made. Sender
// and receiver each copy once, and a piece stays in cache between the two.
//
// Messages of a pair arrive in the order in which they were sent and are matched with the receives in the
// order in which those were posted. Each says which collective it belongs to.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi/mpi_operation.h"
#include "comm/mpi/ring_copy.h"

namespace conclave {

class NodeChannels;

// All channels of this process. Whoever waits moves the data of all of them: another rank may have to get
// its data first, in another group, before it can do what this one waits for.
class ChannelSet {
 public:
  void add(NodeChannels& channels) { all_.push_back(&channels); }
  void remove(NodeChannels& channels) { std::erase(all_, &channels); }
  // True if anything moved.
  bool progress();

 private:
  std::vector<NodeChannels*> all_;
};

class NodeChannels {
 public:
  // Collective over `group`; `node` is the same number on the ranks of one node, which must share memory.
  // Null on a node with one rank of the group, and on one that has no shared memory to give.
  static std::unique_ptr<NodeChannels> open(MPI_Comm group, int node, std::shared_ptr<ChannelSet> set);
  // Collective over the ranks of the node, unless an exception unwinds.
  ~NodeChannels();
  NodeChannels(const NodeChannels&) = delete;
  NodeChannels& operator=(const NodeChannels&) = delete;

  // Ranks are those of the group.
  bool reaches(int peer) const { return links_[static_cast<std::size_t>(peer)].in != nullptr; }

  // Queue a message; data belongs to it until is_sent() or is_received() with the number that is returned.
  std::int64_t send(const void* data, std::int64_t bytes, int peer, const MpiOperation& operation);
  std::int64_t receive(void* data, std::int64_t bytes, int peer, const MpiOperation& operation);
  bool is_sent(int peer, std::int64_t number) const { return link(peer).outgoing.completed >= number; }
  bool is_received(int peer, std::int64_t number) const { return link(peer).incoming.completed >= number; }
  // What is wrong with the message that comes next from `peer`, which is then never received; "": nothing.
  const std::string& problem(int peer) const { return link(peer).problem; }

  // Moves a piece of every message that can move; true if there was any. Waits for nothing.
  bool progress();
  // Nothing moves any more: buffers may be gone.
  void stop() { stopped_ = true; }
  // True where ranks outnumber cores: those who wait must give theirs up.
  bool oversubscribed() const { return oversubscribed_; }

 private:
  struct Slot;
  // Messages in order; those before `first` are complete.
  struct Queue {
    struct Message {
      std::byte* data;
      std::int64_t bytes;
      std::int64_t moved;
      MpiOperation operation;
    };
    std::vector<Message> messages;
    std::size_t first = 0;
    std::int64_t posted = 0;
    std::int64_t completed = 0;

    std::int64_t post(void* data, std::int64_t bytes, const MpiOperation& operation);
    bool empty() const { return first == messages.size(); }
    Message& front() { return messages[first]; }
    void pop();
  };
  // One peer. A counter of slots is raised by one side and read by the other.
  struct Link {
    std::byte* out = nullptr;   // the ring of this rank's messages to the peer
    std::byte* in = nullptr;    // the peer's ring of messages to this rank
    void* freed_out = nullptr;  // how many slots of `out` the peer has emptied: in its memory
    void* freed_in = nullptr;   // how many slots of `in` this rank has emptied
    std::uint64_t filled = 0;
    std::uint64_t seen_freed = 0;
    std::uint64_t emptied = 0;
    RingCopy copy;
    Queue outgoing;
    Queue incoming;
    std::string problem;
  };

  NodeChannels(MPI_Comm node, MPI_Win window, std::shared_ptr<ChannelSet> set);
  void find_links(MPI_Comm group, std::int64_t slot_bytes);
  const Link& link(int peer) const { return links_[static_cast<std::size_t>(peer)]; }
  Slot& slot(std::byte* ring, std::uint64_t number) const;
  bool push(Link& link);
  bool pull(Link& link, int peer);

  MPI_Comm node_;
  MPI_Win window_;
  std::shared_ptr<ChannelSet> set_;
  std::vector<Link> links_;  // [ranks of the group]
  std::vector<int> peers_;   // those that are reached, neighbours first
  std::int64_t slot_bytes_ = 0;
  bool oversubscribed_ = false;
  bool stopped_ = false;
};

}  // namespace conclave
