// The process as one rank of a job.
#pragma once

#include <functional>

#include "comm/base/error.h"
#include "comm/communicator.h"

namespace conclave {

// Runs `action` in the world of all ranks that a launcher (mpirun, srun) started, or in a world of one
// without starting MPI. An error that every rank throws alike (SharedError, ConfigError) is reported once, by
// rank 0, and becomes the returned exit code; any other leaves this function, for main() to end the job with.
ExitCode run_in_world(const std::function<ExitCode(Communicator&)>& action);

// Writes "conclave: <message>" to stderr.
void report_error(const Error& error);

}  // namespace conclave
