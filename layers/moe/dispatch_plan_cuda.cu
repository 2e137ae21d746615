// Dispatch plans by counting sorts. Choices are walked in chunks, each by a block: first every chunk counts
// its choices by expert, then one block adds the counts up over chunks and experts, and then every choice
// knows its place: where its expert begins, how many of the expert's are in earlier chunks, and how many come
// before it in its own.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

constexpr std::int32_t kKept = 0;  // in row_of_choice, until rows are numbered
constexpr std::int64_t kChunk = kThreads;
constexpr int kWarpsOfChunk = static_cast<int>(kThreads) / kWarp;
constexpr unsigned kThreadsOfScan = 1024;

// The order in which choices are walked, `place` being one in [0, T K). By token: as they are numbered. By
// choice: all first choices before any second, the tokens of each as they are, or in an order of their own.
struct ByToken {
  __device__ std::int64_t choice_at(std::int64_t place) const { return place; }
};
struct ByChoice {
  std::int64_t tokens;
  std::int64_t top_k;
  const std::int32_t* order;  // [T]; null: as they are

  __device__ std::int64_t choice_at(std::int64_t place) const {
    const std::int64_t k = place / tokens;
    const std::int64_t at = place % tokens;
    return (order == nullptr ? at : order[at]) * top_k + k;
  }
};

// Which choices are walked at all: those with an expert, and where some are dropped, those that aren't.
struct Choices {
  const std::int32_t* chosen;         // [T K]
  const std::int32_t* row_of_choice;  // kNone where dropped; null: none is
  std::int64_t count;

  __device__ std::int32_t expert_of(std::int64_t choice) const {
    return row_of_choice != nullptr && row_of_choice[choice] == kNone ? kNone : chosen[choice];
  }
};

// A choice's place among those of its expert.
struct Place {
  std::int64_t choice;
  std::int32_t expert;      // kNone: it has no place
  std::int64_t before = 0;  // in its chunk
};

// Of the choice of this thread, by all threads of the block. of_warp [warps, E] is left with each warp's
// counts.
template <class Order>
__device__ Place place_in_chunk(const Choices& choices, Order order, std::int64_t experts, int* of_warp) {
  const int tid = static_cast<int>(threadIdx.x);
  for (std::int64_t i = tid; i < kWarpsOfChunk * experts; i += kThreads) of_warp[i] = 0;
  __syncthreads();
  const std::int64_t walked = static_cast<std::int64_t>(blockIdx.x) * kChunk + tid;
  Place place{walked < choices.count ? order.choice_at(walked) : 0, kNone};
  if (walked < choices.count) place.expert = choices.expert_of(place.choice);
  const int warp = tid / kWarp;
  const unsigned lanes_before = (1U << (tid % kWarp)) - 1U;
  const unsigned equals = __match_any_sync(kAllLanes, place.expert);
  const int before = __popc(equals & lanes_before);
  if (place.expert != kNone && before == 0) of_warp[warp * experts + place.expert] = __popc(equals);
  __syncthreads();
  if (place.expert == kNone) return place;
  place.before = before;
  for (int w = 0; w < warp; ++w) place.before += of_warp[w * experts + place.expert];
  return place;
}

__device__ int* counts_of_warps() { return reinterpret_cast<int*>(shared_memory()); }

// counts [chunks, E].
template <class Order>
__global__ void count_kernel(Choices choices, Order order, std::int64_t experts, std::int32_t* counts) {
  int* of_warp = counts_of_warps();
  place_in_chunk(choices, order, experts, of_warp);
  for (std::int64_t e = threadIdx.x; e < experts; e += kThreads) {
    int count = 0;
    for (int w = 0; w < kWarpsOfChunk; ++w) count += of_warp[w * experts + e];
    counts[blockIdx.x * experts + e] = count;
  }
}

// counts [chunks, E] become the counts of all earlier chunks; offsets [E + 1] the experts' first rows, each
// expert having those that were counted, or rows_per_expert. One block.
__global__ void __launch_bounds__(kThreadsOfScan)
    scan_kernel(std::int32_t* counts, std::int64_t chunks, std::int64_t experts, std::int64_t rows_per_expert,
                std::int64_t* offsets) {
  constexpr int kAtOnce = 8;  // reads under way before the first write, which might be of what is read next
  for (std::int64_t e = threadIdx.x; e < experts; e += kThreadsOfScan) {
    std::int32_t sum = 0;
    for (std::int64_t first = 0; first < chunks; first += kAtOnce) {
      std::int32_t own[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) own[i] = first + i < chunks ? counts[(first + i) * experts + e] : 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i < chunks) counts[(first + i) * experts + e] = sum;
        sum += own[i];
      }
    }
    offsets[e + 1] = rows_per_expert > 0 ? rows_per_expert : sum;
  }
  __syncthreads();
  if (threadIdx.x >= kWarp) return;  // the first warp adds up 32 experts at a time
  const int lane = static_cast<int>(threadIdx.x);
  if (lane == 0) offsets[0] = 0;
  long long before = 0;
  for (std::int64_t first = 0; first < experts; first += kWarp) {
    long long sum = first + lane < experts ? offsets[first + lane + 1] : 0;
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const long long left = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += left;
    }
    if (first + lane < experts) offsets[first + lane + 1] = before + sum;
    before += __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
}

// The first `capacity` choices of each expert, as they are walked, are kept.
template <class Order>
__global__ void drop_kernel(Choices choices, Order order, std::int64_t experts,
                            const std::int32_t* counts_before, std::int64_t capacity,
                            std::int32_t* row_of_choice) {
  const Place place = place_in_chunk(choices, order, experts, counts_of_warps());
  if (static_cast<std::int64_t>(blockIdx.x) * kChunk + threadIdx.x >= choices.count) return;
  const bool is_kept =
      place.expert != kNone && counts_before[blockIdx.x * experts + place.expert] + place.before < capacity;
  row_of_choice[place.choice] = is_kept ? kKept : kNone;
}

__global__ void number_kernel(Choices choices, std::int64_t experts, const std::int32_t* counts_before,
                              const std::int64_t* offsets, std::int32_t* row_of_choice,
                              std::int32_t* choice_of_row) {
  const Place place = place_in_chunk(choices, ByToken{}, experts, counts_of_warps());
  if (static_cast<std::int64_t>(blockIdx.x) * kChunk + threadIdx.x >= choices.count) return;
  if (place.expert == kNone) {
    row_of_choice[place.choice] = kNone;
    return;
  }
  const std::int64_t row =
      offsets[place.expert] + counts_before[blockIdx.x * experts + place.expert] + place.before;
  row_of_choice[place.choice] = static_cast<std::int32_t>(row);
  choice_of_row[row] = static_cast<std::int32_t>(place.choice);
}

__global__ void fill_kernel(std::int32_t* values, std::int32_t value, std::int64_t count) {
  const std::int64_t i = global_thread();
  if (i < count) values[i] = value;
}

// NaN would break an order of weights; the trainer sees it in the loss.
__device__ float comparable(float weight) { return weight != weight ? -INFINITY : weight; }

// rows [offsets[E]] lists the choices of each expert: one stays if fewer than `capacity` of its expert's have
// a larger weight, or the same and a lower number. A thread a row.
__global__ void drop_least_probable_kernel(const std::int32_t* rows, const std::int64_t* offsets,
                                           std::int64_t experts, const std::int32_t* chosen,
                                           const float* weights, std::int64_t capacity,
                                           std::int32_t* row_of_choice) {
  const std::int64_t row = global_thread();
  if (row >= offsets[experts]) return;
  const std::int32_t choice = rows[row];
  const std::int64_t begin = offsets[chosen[choice]];
  const std::int64_t end = offsets[chosen[choice] + 1];
  const float weight = comparable(weights[choice]);
  std::int64_t better = 0;
  if (end - begin > capacity) {
    for (std::int64_t other = begin; other < end; ++other) {
      const float of_other = comparable(weights[rows[other]]);
      if (of_other > weight || (of_other == weight && other < row)) ++better;
    }
  }
  row_of_choice[choice] = better < capacity ? kKept : kNone;
}

__global__ void best_weight_kernel(const float* weights, std::int64_t tokens, std::int64_t top_k,
                                   float* best) {
  const std::int64_t t = global_thread();
  if (t >= tokens) return;
  float largest = -INFINITY;
  for (std::int64_t k = 0; k < top_k; ++k) largest = fmaxf(largest, comparable(weights[t * top_k + k]));
  best[t] = largest;
}

// order [T]: the tokens in descending order of their best weight, ties in token order. A thread a token; the
// block reads the others' together.
__global__ void order_kernel(const float* best, std::int64_t tokens, std::int32_t* order) {
  __shared__ float others[kThreads];
  const std::int64_t t = global_thread();
  const float own = t < tokens ? best[t] : 0.0F;
  std::int64_t before = 0;
  for (std::int64_t first = 0; first < tokens; first += kThreads) {
    __syncthreads();
    if (first + threadIdx.x < tokens) others[threadIdx.x] = best[first + threadIdx.x];
    __syncthreads();
    const std::int64_t count = tokens - first < kThreads ? tokens - first : kThreads;
    for (std::int64_t i = 0; i < count; ++i) {
      if (others[i] > own || (others[i] == own && first + i < t)) ++before;
    }
  }
  if (t < tokens) order[before] = static_cast<std::int32_t>(t);
}

std::int64_t chunks_of(std::int64_t choices) { return (choices + kChunk - 1) / kChunk; }

// The parts of the scratch memory.
struct Scratch {
  std::int32_t* counts;   // [chunks, E]
  std::int32_t* rows;     // [T K]: kProbability's lists
  std::int32_t* order;    // [T], in the same place: kBatchPrioritized's
  float* best;            // [T]: likewise
  std::int64_t* offsets;  // [E + 1] of what is walked before anything is dropped
};

std::int64_t even(std::int64_t elements) { return (elements + 1) / 2 * 2; }

Scratch parts_of(const DispatchPlanProblem& p) {
  Scratch scratch{};
  scratch.offsets = reinterpret_cast<std::int64_t*>(p.scratch);
  scratch.counts = p.scratch + 2 * (p.experts + 1);
  scratch.rows = scratch.counts + even(chunks_of(p.tokens * p.top_k) * p.experts);
  scratch.order = scratch.rows;
  scratch.best = reinterpret_cast<float*>(scratch.rows + p.tokens);
  return scratch;
}

std::size_t shared_bytes_of(std::int64_t experts) {
  return static_cast<std::size_t>(kWarpsOfChunk * experts) * sizeof(int);
}

template <class Order>
void count_and_scan(StreamHandle stream, const DispatchPlanProblem& p, const Choices& choices, Order order,
                    std::int64_t rows_per_expert, std::int32_t* counts, std::int64_t* offsets) {
  const std::int64_t chunks = chunks_of(choices.count);
  if (chunks > 0) {
    launch("dispatch_plan.count", stream, static_cast<unsigned>(chunks), kThreads, shared_bytes_of(p.experts),
           count_kernel<Order>, choices, order, p.experts, counts);
  }
  launch("dispatch_plan.scan", stream, 1, kThreadsOfScan, 0, scan_kernel, counts, chunks, p.experts,
         rows_per_expert, offsets);
}

void number(StreamHandle stream, const DispatchPlanProblem& p, const Choices& choices,
            const std::int32_t* counts, const std::int64_t* offsets, std::int32_t* choice_of_row) {
  if (choices.count == 0) return;
  launch("dispatch_plan.number", stream, static_cast<unsigned>(chunks_of(choices.count)), kThreads,
         shared_bytes_of(p.experts), number_kernel, choices, p.experts, counts, offsets, p.row_of_choice,
         choice_of_row);
}

void drop_latest(StreamHandle stream, const DispatchPlanProblem& p, const Choices& all,
                 const Scratch& scratch) {
  ByChoice order{p.tokens, p.top_k, nullptr};
  if (p.drop == DropOrder::kBatchPrioritized) {
    launch("dispatch_plan.best", stream, blocks_for(p.tokens), kThreads, 0, best_weight_kernel, p.weights,
           p.tokens, p.top_k, scratch.best);
    launch("dispatch_plan.order", stream, blocks_for(p.tokens), kThreads, 0, order_kernel, scratch.best,
           p.tokens, scratch.order);
    order.order = scratch.order;
  }
  count_and_scan(stream, p, all, order, 0, scratch.counts, scratch.offsets);
  launch("dispatch_plan.drop", stream, static_cast<unsigned>(chunks_of(all.count)), kThreads,
         shared_bytes_of(p.experts), drop_kernel<ByChoice>, all, order, p.experts, scratch.counts, p.capacity,
         p.row_of_choice);
}

void drop_least_probable(StreamHandle stream, const DispatchPlanProblem& p, const Choices& all,
                         const Scratch& scratch) {
  count_and_scan(stream, p, all, ByToken{}, 0, scratch.counts, scratch.offsets);
  number(stream, p, all, scratch.counts, scratch.offsets, scratch.rows);
  launch("dispatch_plan.drop_least_probable", stream, blocks_for(all.count), kThreads, 0,
         drop_least_probable_kernel, scratch.rows, scratch.offsets, p.experts, p.chosen, p.weights,
         p.capacity, p.row_of_choice);
}

}  // namespace

std::int64_t dispatch_plan_scratch(const DispatchPlanProblem& p) {
  const std::int64_t choices = p.tokens * p.top_k;
  const std::int64_t lists = choices > 2 * p.tokens ? choices : 2 * p.tokens;
  return 2 * (p.experts + 1) + even(chunks_of(choices) * p.experts) + lists;
}

void make_dispatch_plan(StreamHandle stream, const DispatchPlanProblem& p) {
  const Scratch scratch = parts_of(p);
  Choices choices{p.chosen, nullptr, p.tokens * p.top_k};
  // No token goes to an expert twice.
  if (p.capacity < p.tokens && choices.count > 0) {
    if (p.drop == DropOrder::kProbability) {
      drop_least_probable(stream, p, choices, scratch);
    } else {
      drop_latest(stream, p, choices, scratch);
    }
    choices.row_of_choice = p.row_of_choice;
  }
  if (p.rows > 0)
    launch("dispatch_plan.fill", stream, blocks_for(p.rows), kThreads, 0, fill_kernel, p.choice_of_row, kNone,
           p.rows);
  count_and_scan(stream, p, choices, ByToken{}, p.rows_per_expert, scratch.counts, p.expert_offsets);
  number(stream, p, choices, scratch.counts, p.expert_offsets, p.choice_of_row);
}

}  // namespace conclave::cuda
