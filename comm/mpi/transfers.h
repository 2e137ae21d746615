// Point-to-point messages that together make one collective: through shared memory where the group has
// channels to the peer, else over MPI.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/mpi/mpi_operation.h"
#include "comm/mpi/node_channels.h"

namespace conclave {

// Messages under way. A block travels in pieces of at most 1 GiB, because MPI 3.1 counts are `int`; an empty
// block is one empty message, so that ranks that disagree about a count find out here, not in a later
// operation. The functions return MPI error codes. The object may be used again after wait().
//
// A message's tag says which operation, which number of it and which length it has: one that is not what the
// receiver expects is never received, not even in part. (Open MPI 4.1 can write a message that is too long
// past the end of its buffer.) wait() looks for such messages when it has waited for a while.
class Transfers {
 public:
  // `channels` of the same group may be null. Whoever waits moves the data of all channels of the process.
  Transfers(MPI_Comm comm, NodeChannels* channels, ChannelSet& all_channels);

  int send(const void* data, std::int64_t bytes, int peer, const MpiOperation& operation);
  int receive(void* data, std::int64_t bytes, int peer, const MpiOperation& operation);
  // Adds a request that was started elsewhere (a non-blocking collective).
  MPI_Request* add();

  // Moves what is under way, here and in other groups, as far as it goes without waiting.
  void progress();
  // Waits for all. `problem` becomes "" or a sentence about the message that failed or that came instead of
  // the expected one; after such a message nothing is waited for any more.
  int wait(std::string& problem);

 private:
  struct Expectation {
    int peer = -1;
    int bytes = -1;          // that a receive must bring; -1: not a receive
    MpiOperation operation;  // that it belongs to
  };

  // A message through shared memory.
  struct LocalMessage {
    int peer;
    std::int64_t number;
    bool is_send;
  };

  int tag_of(const MpiOperation& operation, int bytes) const;
  int wait_for_all(bool& mismatch, std::string& problem);
  // True if all are complete. `problem` says why one never will be.
  bool local_messages_end(std::string& problem);
  std::string message_of_another_operation() const;
  void give_up();

  MPI_Comm comm_;
  NodeChannels* channels_;
  ChannelSet* all_channels_;
  std::vector<LocalMessage> local_messages_;
  int length_values_;  // that a tag has room for
  std::vector<MPI_Request> requests_;
  std::vector<Expectation> expectations_;  // one a request
  std::vector<MPI_Status> statuses_;
};

}  // namespace conclave
