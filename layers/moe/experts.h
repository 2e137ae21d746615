// The stacked SwiGLU experts of this rank (Shazeer, "GLU variants improve transformer", 2020):
//   y = W_down (silu(W_gate x) * (W_up x))   for the expert that the row belongs to.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "layers/context.h"
#include "layers/parameter.h"

namespace conclave {

struct ExpertsOptions {
  std::int64_t experts = 0;       // E, of all ranks
  Range local_experts;            // the global ids on this rank
  std::int64_t d_model = 0;       // D
  std::int64_t d_ff = 0;          // F
  std::uint64_t seed = 0;         // of the initial weights
  double init_std = 0.02;         // of gate and up
  double output_init_std = 0.02;  // of down, the projection into the residual stream
  std::int64_t d_output = 0;      // width of what comes out; 0: D
};

class Experts {
 public:
  // Parameters name + ".gate_up" [E, 2F, D] (gate first) and name + ".down" [E, D_out, F], sharded by
  // expert.
  Experts(const std::string& name, const ExpertsOptions& options);

  // rows [R, D] ordered by local expert, offsets [local experts + 1] -> [R, D_out] in ctx.arena. Rows of an
  // expert, or all, may be none. With ctx.training rows and the offsets must stay valid until backward.
  TensorView forward(Context& ctx, ConstTensorView rows, std::span<const std::int64_t> offsets);

  // dy [R, D_out] -> drows [R, D] in ctx.arena; adds to the gradients of the parameters.
  TensorView backward(Context& ctx, ConstTensorView dy);

  void collect_parameters(std::vector<Parameter*>& parameters);

 private:
  std::int64_t d_ff_;
  Parameter gate_up_;
  Parameter down_;

  // Kept from forward for backward.
  ConstTensorView rows_;                   // [R, D]
  std::span<const std::int64_t> offsets_;  // [local experts + 1]
  TensorView gate_up_rows_;                // [R, 2F]
  TensorView hidden_;                      // [R, F]
};

}  // namespace conclave
