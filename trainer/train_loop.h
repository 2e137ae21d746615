// A whole run: resume, steps, evaluations, checkpoints, records, until the last step or a request to stop.
#pragma once

#include "comm/base/error.h"
#include "comm/communicator.h"
#include "configs/run.pb.h"

namespace conclave {

// Collective over `world`. `experiment` is resolved and validated for this number of ranks. Returns kDone
// after the last step, kRequeue if the run stopped early with its state saved.
ExitCode train(const config::Experiment& experiment, Communicator& world);

}  // namespace conclave
