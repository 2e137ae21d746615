// Process groups over MPI 3.1, host memory.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace conclave {

// MPI, started by the constructor and finalized by the destructor: one object, in main(). All communicators
// must be gone before it. While an exception unwinds, the destructor leaves MPI running: MPI_Finalize waits
// for ranks that may be waiting for this one; whoever catches ends the job with abort().
class MpiRuntime {
 public:
  MpiRuntime();
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  // True if the environment says that a launcher (mpirun, srun) started this process as one of its ranks.
  // Otherwise the process is a world of one and need not start MPI.
  static bool launched_by_mpirun();
  // True between MPI_Init and MPI_Finalize.
  static bool active();
  // Ends every rank of the job with exit status `code`, or this process alone where MPI does not run. No
  // destructor runs; output streams are flushed.
  [[noreturn]] static void abort(int code);

 private:
  int exceptions_at_start_;
};

// All ranks of the job, named "world". Collective. Throws Error unless an MpiRuntime lives. The groups that
// split() makes, too, belong to their owner and must be destroyed before the MpiRuntime is.
//
// Exchanges, all_gather and broadcast run until their Work is waited for; reductions and barriers are
// complete when the call returns. Messages above 1 GiB travel in pieces. Errors of MPI are thrown as Error
// naming the operation, group, rank and bytes.
std::unique_ptr<Communicator> make_mpi_world();

}  // namespace conclave
