// Counts of choices, in integers, whose sums have no order.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

// One more for counters[which] of each lane, kNone for none. By all lanes of a warp: those that count the
// same add up first, since few counters are many lanes'.
__device__ void count(std::int64_t* counters, std::int32_t which) {
  const unsigned equals = __match_any_sync(kAllLanes, which);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (which == kNone || lane != __ffs(equals) - 1) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(counters + which),
            static_cast<unsigned long long>(__popc(equals)));
}

__global__ void count_dispatched_kernel(const std::int32_t* chosen, const std::int32_t* row_of_choice,
                                        std::int64_t choices, std::int64_t top_k, DispatchCounts counts) {
  const std::int64_t choice = global_thread();
  const std::int32_t expert = choice < choices ? chosen[choice] : kNone;
  const bool is_kept = expert != kNone && row_of_choice[choice] != kNone;
  const auto place = static_cast<std::int32_t>(choice % top_k);
  const bool has_place = expert != kNone && place < counts.places;
  count(counts.chosen_per_expert, expert);
  count(counts.kept_per_expert, is_kept ? expert : kNone);
  count(counts.chosen_per_choice, has_place ? place : kNone);
  count(counts.dropped_per_choice, has_place && !is_kept ? place : kNone);
}

__global__ void count_choices_kernel(const std::int32_t* chosen, std::int64_t choices,
                                     std::int64_t choices_a_group, std::int64_t experts,
                                     std::int64_t* counts) {
  const std::int64_t choice = global_thread();
  const std::int32_t expert = choice < choices ? chosen[choice] : kNone;
  const std::int64_t counter = choice / choices_a_group * experts + expert;
  count(counts, expert == kNone ? kNone : static_cast<std::int32_t>(counter));
}

}  // namespace

void count_dispatched(StreamHandle stream, const std::int32_t* chosen, const std::int32_t* row_of_choice,
                      std::int64_t T, std::int64_t K, const DispatchCounts& counts) {
  if (T * K == 0) return;
  launch("count_dispatched", stream, blocks_for(T * K), kThreads, 0, count_dispatched_kernel, chosen,
         row_of_choice, T * K, K, counts);
}

void count_choices(StreamHandle stream, const std::int32_t* chosen, std::int64_t count,
                   std::int64_t choices_a_group, std::int64_t E, std::int64_t* counts) {
  if (count == 0) return;
  launch("count_choices", stream, blocks_for(count), kThreads, 0, count_choices_kernel, chosen, count,
         choices_a_group, E, counts);
}

}  // namespace conclave::cuda
