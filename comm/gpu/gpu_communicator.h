// Process groups whose ranks compute on GPUs.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/cuda/stream.h"

namespace conclave {

// The ranks of `host`, which goes on moving what lies in host memory: counts, scalars, barriers. This rank
// computes in `compute`, which outlives the group and those split from it. Collective over `host`.
//
// What lies on GPUs is copied in the stream by a group of one; it goes from GPU to GPU by NCCL where all
// ranks of the group have different ones and the build has NCCL; else `host` moves it. Results are the same
// bit for bit. describe_paths() says which. Throws Error if NCCL can't connect the ranks.
std::unique_ptr<Communicator> make_gpu_communicator(std::unique_ptr<Communicator> host,
                                                    cuda::Stream& compute);

}  // namespace conclave
