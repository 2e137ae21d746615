#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "comm/base/error.h"
#include "comm/mpi/mpi_communicator.h"

namespace conclave {

MpiRuntime::MpiRuntime() : exceptions_at_start_(std::uncaught_exceptions()) {
  CONCLAVE_CHECK(!active(), "MPI was started before");
  int provided = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  CONCLAVE_CHECK(code == MPI_SUCCESS, "MPI_Init_thread failed with code {}", code);
  CONCLAVE_CHECK(provided >= MPI_THREAD_FUNNELED,
                 "this MPI was built without threads (level {}); MPI_THREAD_FUNNELED ({}) is needed",
                 provided, MPI_THREAD_FUNNELED);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

MpiRuntime::~MpiRuntime() {
  if (active() && std::uncaught_exceptions() == exceptions_at_start_) MPI_Finalize();
}

bool MpiRuntime::launched_by_mpirun() {
  // Open MPI; PMIx and PMI launchers (MPICH, Intel MPI, srun --mpi=...).
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  // srun without a PMI plugin: MPI_Init explains that better than silent worlds of one would.
  const char* slurm_tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return slurm_tasks != nullptr && std::atoi(slurm_tasks) > 1;
}

bool MpiRuntime::active() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

void MpiRuntime::abort(int code) {
  std::cout.flush();
  std::cerr.flush();
  std::fflush(nullptr);
  if (active()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace conclave
