// An MPI communicator as the operations of a group see it: its ranks, the messages between them, and what
// errors and the watchdog are told about an operation.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <string>

#include "comm/mpi/mpi_operation.h"
#include "comm/mpi/node_channels.h"
#include "comm/mpi/transfers.h"
#include "comm/watchdog.h"

namespace conclave {

class MpiGroup {
 public:
  // Doesn't own `comm`. `all_channels` are those of this process.
  MpiGroup(MPI_Comm comm, std::string name, std::shared_ptr<Watchdog> watchdog,
           std::shared_ptr<ChannelSet> all_channels);

  MPI_Comm comm() const { return comm_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

  // The group's next collective.
  MpiOperation next(Operation operation, std::int64_t bytes = 0) { return {operation, ++sequence_, bytes}; }
  // Waits of this group are noted with it.
  Watchdog& watchdog() const { return *watchdog_; }
  CollectiveNote note(const MpiOperation& operation) const;

  // From now on messages go through shared memory where `channels`, which may be null, reach the peer.
  void use_channels(std::unique_ptr<NodeChannels> channels) { channels_ = std::move(channels); }
  bool has_channels() const { return channels_ != nullptr; }
  Transfers make_transfers() const { return {comm_, channels_.get(), *all_channels_}; }
  // Waits for all messages; throws Error if one failed.
  void finish(Transfers& transfers, const MpiOperation& operation) const;
  // Throws Error if `code` is one.
  void check(int code, const MpiOperation& operation, const std::string& problem = {}) const;

  // Calls exchange(to, from) for every other rank, neighbours first, so that no rank is
  // everybody's first target.
  template <class Exchange>
  void for_each_peer(Exchange exchange) const {
    for (int distance = 1; distance < size_; ++distance) {
      exchange((rank_ + distance) % size_, (rank_ - distance + size_) % size_);
    }
  }

 private:
  MPI_Comm comm_;
  std::string name_;
  NotedText::Words noted_name_;
  int rank_;
  int size_;
  int first_rank_;  // rank in the world of this group's rank 0
  std::shared_ptr<Watchdog> watchdog_;
  std::shared_ptr<ChannelSet> all_channels_;
  std::unique_ptr<NodeChannels> channels_;
  std::int64_t sequence_ = 0;
};

}  // namespace conclave
