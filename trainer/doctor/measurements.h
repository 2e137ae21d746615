// Short measurements of what bounds a training step: medians of repeated runs.
#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace conclave {

// fp32 matrix products of 512 x 512 x 512 by this rank: 2 * 512^3 flops over the median time, in GFLOP/s.
double measure_gemm_gflops();

// memcpy between buffers beyond the caches: bytes read plus bytes written a second, in GB/s.
double measure_memory_gb_per_second();

// Collective. all_to_all of `bytes_per_peer` to each rank: bytes that this rank sends to others over the
// median time, in GB/s; 0 for a world of one.
double measure_exchange_gb_per_second(Communicator& world, std::int64_t bytes_per_peer);

}  // namespace conclave
