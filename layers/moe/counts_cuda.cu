// Counts of choices, in integers, whose sums have no order, and sums in an order that their number decides.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kNone = -1;
constexpr unsigned kThreadsOfSum = 1024;

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

// One block.
template <class Value>
__global__ void add_sum_kernel(const Value* values, std::int64_t count, bool of_squares, double scale,
                               double* sum) {
  __shared__ double scratch[kWarp];
  double own = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreadsOfSum) {
    const auto value = static_cast<double>(values[i]);
    own += of_squares ? value * value : value;
  }
  const double all = sum_of_block(own, scratch);
  if (threadIdx.x == 0) *sum += scale * all;
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

void add_sum(StreamHandle stream, const float* values, std::int64_t count, bool of_squares, double scale,
             double* sum) {
  if (count == 0) return;
  launch("add_sum", stream, 1, kThreadsOfSum, 0, add_sum_kernel<float>, values, count, of_squares, scale,
         sum);
}

void add_sum(StreamHandle stream, const double* values, std::int64_t count, double* sum) {
  if (count == 0) return;
  launch("add_sum", stream, 1, kThreadsOfSum, 0, add_sum_kernel<double>, values, count, false, 1.0, sum);
}

}  // namespace conclave::cuda
