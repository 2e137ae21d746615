#include "trainer/world.h"

#include <cstdio>
#include <memory>
#include <optional>

#include "comm/mpi/mpi_communicator.h"
#include "comm/self/self_communicator.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

ExitCode shared_failure(Communicator& world, const Error& error) {
  if (world.rank() == 0) report_error(error);
  world.barrier();  // the report comes before any message of the launcher about exit codes
  return error.exit_code();
}

ExitCode run(Communicator& world, const std::function<ExitCode(Communicator&)>& action) {
  try {
    return action(world);
  } catch (const SharedError& error) {
    return shared_failure(world, error);
  } catch (const ConfigError& error) {
    return shared_failure(world, error);
  }
}

}  // namespace

ExitCode run_in_world(const std::function<ExitCode(Communicator&)>& action) {
  if (!MpiRuntime::launched_by_mpirun()) return run(*make_self_communicator(), action);
  const MpiRuntime mpi;
  return run(*make_mpi_world(mpi), action);
}

void report_error(const Error& error) {
  std::fflush(stdout);
  std::fprintf(stderr, "conclave: %s\n", error.what());
  std::fflush(stderr);
}

}  // namespace conclave
