#include <mpi.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <thread>
#include <utility>

#include "comm/base/error.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/node_table.h"
#include "comm/mpi/nodes.h"

namespace conclave {
namespace {

// Other nodes' reports are worth more than this second.
constexpr auto kTimeOfOtherNodes = std::chrono::seconds(1);

// Runs in the watchdog's thread, while this rank's own is stuck in MPI or on its way out of it. MPI_Abort
// tells the launcher at once; that it is called from another thread does no harm where nothing is expected to
// work any more. A lock that the stuck thread holds must not stop this one: no streams.
[[noreturn]] void end_hung_job(const std::string& report, bool has_other_nodes, bool finalizing) {
  const std::string text = fmt::format("conclave: {}\n", report);
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
  if (has_other_nodes) std::this_thread::sleep_for(kTimeOfOtherNodes);
  constexpr int kFailure = static_cast<int>(ExitCode::kFailure);
  if (!finalizing) MPI_Abort(MPI_COMM_WORLD, kFailure);
  _exit(kFailure);
}

std::shared_ptr<Watchdog> make_watchdog(const std::atomic<bool>& finalizing) {
  int world_size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  NodeTable table = make_node_table();
  const bool has_other_nodes = table.ranks.size() < static_cast<std::size_t>(world_size);
  return std::make_shared<Watchdog>(std::move(table), world_size,
                                    [has_other_nodes, &finalizing](const std::string& report) {
                                      end_hung_job(report, has_other_nodes, finalizing);
                                    });
}

}  // namespace

MpiRuntime::MpiRuntime() : exceptions_at_start_(std::uncaught_exceptions()) {
  CONCLAVE_CHECK(!active(), "MPI was started before");
  int provided = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  CONCLAVE_CHECK(code == MPI_SUCCESS, "MPI_Init_thread failed with code {}", code);
  CONCLAVE_CHECK(provided >= MPI_THREAD_FUNNELED,
                 "this MPI was built without threads (level {}); MPI_THREAD_FUNNELED ({}) is needed",
                 provided, MPI_THREAD_FUNNELED);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  node_ = find_node(MPI_COMM_WORLD, 0);
  watchdog_ = make_watchdog(finalizing_);
}

MpiRuntime::~MpiRuntime() {
  if (!active() || std::uncaught_exceptions() != exceptions_at_start_) return;
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const WatchedWait wait(*watchdog_, {.operation = Operation::kFinalize,
                                      .group = NotedText::words_of("world"),
                                      .group_rank = rank,
                                      .group_size = size});
  finalizing_ = true;
  MPI_Finalize();
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

int MpiRuntime::launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* rank = std::getenv(name)) return std::atoi(rank);
  }
  return 0;
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
