// A dispatch plan where the layer computes: what operators and the exchange need of it.
#pragma once

#include <cstdint>

#include "layers/context.h"
#include "layers/cuda/moe_kernels.h"
#include "layers/moe/dispatch_plan.h"

namespace conclave {

// As in DispatchPlan. On a GPU, which alone knows how many rows there are, R is the most that there can be:
// those beyond the last expert's are of no choice.
struct DispatchedRows {
  ConstTensorView expert_offsets;  // int64 [E + 1]
  ConstTensorView choice_of_row;   // int32 [R]
  ConstTensorView row_of_choice;   // int32 [T K]

  std::int64_t rows() const { return choice_of_row.elements(); }  // R
};

// Valid as long as the plan stays as it is.
inline DispatchedRows rows_of(const DispatchPlan& plan) {
  return {plan.expert_offsets, plan.choice_of_row, plan.row_of_choice};
}

struct GpuDispatchArgs {
  std::int64_t experts = 0;   // E
  std::int64_t capacity = 0;  // rows that an expert takes at most
  config::Moe::Drop drop = config::Moe::position;
  bool fill_up = false;  // every expert, to exactly `capacity` rows
  // Where choices are counted; null: nowhere.
  const cuda::DispatchCounts* counts = nullptr;
};
// make_dispatch_plan, and fill_up_to_capacity, by kernels, in ctx.arena: the same rows for the same routing,
// which is trusted. Throws Error for numbers beyond 32 bits.
DispatchedRows dispatch_on_gpu(Context& ctx, const Routing& routing, const GpuDispatchArgs& args);

}  // namespace conclave
