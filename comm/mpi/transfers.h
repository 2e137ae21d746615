// Point-to-point messages that together make one collective over MPI.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace conclave {

// What an error message says about the operation that failed.
struct MpiOperation {
  const char* name;
  std::int64_t bytes;  // of this rank's buffers
  int tag;             // ranks that disagree about the operation must not exchange messages
};

// Messages under way. A block travels in pieces of at most 1 GiB, because MPI 3.1 counts are `int`; an empty
// block is one empty message, so that ranks that disagree about a count find out here, not in a later
// operation. The functions return MPI error codes. The object may be used again after wait().
class Transfers {
 public:
  explicit Transfers(MPI_Comm comm) : comm_(comm) {}

  int send(const void* data, std::int64_t bytes, int peer, int tag);
  int receive(void* data, std::int64_t bytes, int peer, int tag);
  // Adds a request that was started elsewhere (a non-blocking collective).
  MPI_Request* add();

  // Waits for all. `problem` becomes "" or a sentence about the message that failed.
  int wait(std::string& problem);

 private:
  struct Expectation {
    int peer = -1;
    int bytes = -1;  // that a receive must bring; -1: not a receive
  };

  MPI_Comm comm_;
  std::vector<MPI_Request> requests_;
  std::vector<Expectation> expectations_;  // one a request
  std::vector<MPI_Status> statuses_;
};

}  // namespace conclave
