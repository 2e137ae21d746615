// NCCL: data from GPU to GPU, within a host and between hosts. Declared in every build; one without NCCL has
// no_nccl.cc.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/cuda/stream.h"
#include "comm/gpu/device_collectives.h"

namespace conclave {

// "NCCL 2.28.9", or why this program can't use it and how to get one that can.
bool nccl_is_built_in();
std::string nccl_description();

// The NCCL operations of this process, of all its groups (comm/nccl/nccl_queue.h). Null without NCCL.
class NcclQueue;
std::shared_ptr<NcclQueue> make_nccl_queue(cuda::Stream& compute);

// Collective over `host`, whose ranks have different GPUs, and which outlives the result. Throws Error if
// NCCL can't connect them.
//
// Operations start and end on the GPU: neither the call nor wait() of its Work holds up the host. Reductions
// add in rank order, as those of any backend: chunks travel to the ranks that add them up, and the sums back.
// Errors of NCCL are found while the host waits for the stream, and by progress(); they end all NCCL groups
// of the process and are thrown as Error naming operation, group, rank and bytes. Ranks that disagree about
// an operation or a count wait for each other until the watchdog ends the job.
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& host,
                                                         std::shared_ptr<NcclQueue> queue);

}  // namespace conclave
