// What kernels count and add up of an MoE layer's routing, until somebody asks for its statistics: no forward
// waits for the host.
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/statistics.h"

namespace conclave {

class Exchange;

// Sums in the memory of a GPU, of the fields of MoeStatistics with these names.
struct RoutingSums {
  double* router_entropy_sum = nullptr;
  double* balance_loss_raw = nullptr;
  double* z_loss_raw = nullptr;
  double* importance_loss_raw = nullptr;
  double* load_loss_raw = nullptr;
};

class GpuTally {
 public:
  // On the GPU of `ctx`, whose engine must outlive the object. `experts` E, `top_k` the choices of a token.
  GpuTally(const Context& ctx, std::int64_t experts, std::int64_t top_k);

  const RoutingSums& sums() const { return sums_; }
  const cuda::DispatchCounts& counts() const { return counts_; }

  void wait() const { stream_->synchronize(); }
  // Waits for the GPU, adds all to `statistics`, and counts from nothing. What each rank of the group was
  // sent `exchange` knows.
  void move_to(MoeStatistics& statistics, const Exchange& exchange);

 private:
  const cuda::Stream* stream_;
  std::int64_t experts_;
  Buffer counts_buffer_;
  Buffer sums_buffer_;
  cuda::DispatchCounts counts_;
  RoutingSums sums_;
};

}  // namespace conclave
