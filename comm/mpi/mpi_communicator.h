// Process groups over MPI 3.1, host memory.
#pragma once

#include <atomic>
#include <memory>

#include "comm/communicator.h"

namespace conclave {

// MPI, started by the constructor and finalized by the destructor: one object, in main(). All communicators
// must be gone before it. While an exception unwinds, the destructor leaves MPI running: MPI_Finalize waits
// for ranks that may be waiting for this one; whoever catches ends the job with abort().
//
// A watchdog (comm/watchdog.h) lives as long. It ends the job with exit status 1 once a wait of this rank has
// taken longer than its timeout, after one report a node to stderr.
class MpiRuntime {
 public:
  MpiRuntime();
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  // True if the environment says that a launcher (mpirun, srun) started this process as one of its ranks.
  // Otherwise the process is a world of one and need not start MPI.
  static bool launched_by_mpirun();
  // This process's rank according to the same environment, 0 without a launcher; needs no MPI_Init.
  static int launched_rank();
  // A number for the node of this rank, the same for those that share memory; 0 where MPI was never started.
  static int node() { return node_; }
  // True between MPI_Init and MPI_Finalize.
  static bool active();
  // Ends every rank of the job with exit status `code`, or this process alone where MPI does not run. No
  // destructor runs; output streams are flushed.
  [[noreturn]] static void abort(int code);

  const std::shared_ptr<Watchdog>& watchdog() const { return watchdog_; }

 private:
  inline static int node_ = 0;
  int exceptions_at_start_;
  std::atomic<bool> finalizing_{false};
  std::shared_ptr<Watchdog> watchdog_;
};

// All ranks of the job, named "world". Collective. The groups that split() makes, too, belong to their owner
// and must be destroyed before the MpiRuntime is.
//
// Ranks of one node talk through shared memory, others through MPI (comm/paths.h: set_paths() chooses).
// Operations run until their Work is waited for; barriers, reductions of few elements and hierarchical
// exchanges are complete when the call returns. Data moves in calls of this interface alone: there is no
// thread beside. Messages above 1 GiB travel in pieces. Errors of MPI are thrown as Error
// naming the operation, group, rank and bytes. Ranks that order their operations differently or disagree
// about a count get, about a second later, an Error that names both sides; where one of them is in a
// broadcast or a split, the watchdog finds them.
std::unique_ptr<Communicator> make_mpi_world(const MpiRuntime& mpi);

}  // namespace conclave
