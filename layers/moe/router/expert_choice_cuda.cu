// Experts' choice of tokens. An expert that takes C tokens of a sequence takes those above the C-th largest
// probability, and of those that equal it the first; that one is found bit by bit, by counting.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"
#include "layers/cuda/moe_kernels.h"

namespace conclave::cuda {
namespace {

constexpr std::uint32_t kNoKey = 0;  // of padding, and in the end of whatever wasn't taken
constexpr int kWarpsOfBlock = static_cast<int>(kThreads) / kWarp;

// Keys are ordered as probabilities are, NaN before the least of them, and above kNoKey.
__device__ std::uint32_t key_of(float probability) {
  const float comparable = probability != probability ? -INFINITY : probability + 0.0F;  // -0 equals 0
  const std::uint32_t bits = __float_as_uint(comparable);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

// A thread a key: an expert's lie side by side.
__global__ void expert_choice_keys_kernel(ExpertChoice args) {
  const std::int64_t tokens = args.sequences * args.sequence_length;
  const std::int64_t i = global_thread();
  if (i >= args.experts_count * tokens) return;
  const std::int64_t t = i % tokens;
  const bool is_padding = args.padding != nullptr && args.padding[t] != 0;
  args.keys[i] = is_padding ? kNoKey : key_of(args.probabilities[t * args.experts_count + i / tokens]);
}

// A sum over the warps of the block, and over those before this one. `own` is the same on all lanes.
struct Counts {
  std::int64_t before = 0;
  std::int64_t all = 0;
};
__device__ Counts add_up_warps(int own, int* of_warp) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) of_warp[warp] = own;
  __syncthreads();
  Counts counts;
  for (int w = 0; w < kWarpsOfBlock; ++w) {
    if (w < warp) counts.before += of_warp[w];
    counts.all += of_warp[w];
  }
  __syncthreads();
  return counts;
}

// How many keys fulfil the condition.
template <class Condition>
__device__ std::int64_t count_keys(const std::uint32_t* keys, std::int64_t count, Condition condition,
                                   int* of_warp) {
  int own = 0;
  for (std::int64_t first = 0; first < count; first += kThreads) {
    const std::int64_t t = first + threadIdx.x;
    own += __popc(__ballot_sync(kAllLanes, t < count && condition(keys[t])));
  }
  return add_up_warps(own, of_warp).all;
}

// The largest key that at least `capacity` keys reach.
__device__ std::uint32_t least_taken_key(const std::uint32_t* keys, std::int64_t count, std::int64_t capacity,
                                         int* of_warp) {
  std::uint32_t least = 0;
  for (std::uint32_t bit = 0x80000000U; bit != 0; bit >>= 1) {
    const std::uint32_t larger = least | bit;
    const auto reaches = [&](std::uint32_t key) { return key >= larger; };
    if (count_keys(keys, count, reaches, of_warp) >= capacity) least = larger;
  }
  return least;
}

// A block a sequence and expert: clears the keys of the tokens that the expert doesn't take.
__global__ void take_tokens_kernel(ExpertChoice args) {
  __shared__ int of_warp[kWarpsOfBlock];
  const std::int64_t length = args.sequence_length;
  const std::int64_t sequence = blockIdx.x / args.experts_count;
  const std::int64_t expert = blockIdx.x % args.experts_count;
  std::uint32_t* keys = args.keys + (expert * args.sequences + sequence) * length;
  const std::int64_t capacity = args.capacities[sequence];

  const std::uint32_t least = least_taken_key(keys, length, capacity, of_warp);
  const auto is_above = [&](std::uint32_t key) { return key > least; };
  std::int64_t left = capacity - count_keys(keys, length, is_above, of_warp);  // for those that equal it
  for (std::int64_t first = 0; first < length; first += kThreads) {
    const std::int64_t t = first + threadIdx.x;
    const bool is_equal = t < length && keys[t] == least;
    const unsigned equals = __ballot_sync(kAllLanes, is_equal);
    const Counts counts = add_up_warps(__popc(equals), of_warp);
    const std::int64_t before = counts.before + __popc(equals & ((1U << (threadIdx.x % kWarp)) - 1U));
    if (t < length && (keys[t] < least || (is_equal && before >= left))) keys[t] = kNoKey;
    left -= counts.all;
  }
}

// A warp a token: a lane has the experts with its number modulo kWarp, and counts which come before them.
__global__ void order_experts_kernel(ExpertChoice args) {
  const std::int64_t tokens = args.sequences * args.sequence_length;
  const std::int64_t experts = args.experts_count;
  const std::int64_t t = global_thread() / kWarp;
  if (t >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto key_of_lane = [&](std::int64_t first) {
    return first + lane < experts ? args.keys[(first + lane) * tokens + t] : kNoKey;
  };
  std::int64_t taken = 0;
  for (std::int64_t first = 0; first < experts; first += kWarp) {
    const std::uint32_t own = key_of_lane(first);
    const unsigned owners = __ballot_sync(kAllLanes, own != kNoKey);
    if (owners == 0) continue;
    taken += __popc(owners);
    std::int64_t before = 0;
    for (std::int64_t other_first = 0; other_first < experts; other_first += kWarp) {
      const std::uint32_t of_lane = key_of_lane(other_first);
      for (unsigned left = __ballot_sync(kAllLanes, of_lane != kNoKey); left != 0; left &= left - 1U) {
        const int source = __ffs(static_cast<int>(left)) - 1;
        const std::uint32_t other = __shfl_sync(kAllLanes, of_lane, source);
        if (other > own || (other == own && other_first + source < first + lane)) ++before;
      }
    }
    if (own == kNoKey) continue;
    args.experts[t * experts + before] = static_cast<std::int32_t>(first + lane);
    args.weights[t * experts + before] = args.scale * args.probabilities[t * experts + first + lane];
  }
  for (std::int64_t k = taken + lane; k < experts; k += kWarp) {
    args.experts[t * experts + k] = kNone;
    args.weights[t * experts + k] = 0.0F;
  }
}

}  // namespace

void choose_tokens(StreamHandle stream, const ExpertChoice& args) {
  const std::int64_t tokens = args.sequences * args.sequence_length;
  if (tokens == 0) return;
  launch("expert_choice.keys", stream, blocks_for(args.experts_count * tokens), kThreads, 0,
         expert_choice_keys_kernel, args);
  launch("expert_choice.take", stream, static_cast<unsigned>(args.sequences * args.experts_count), kThreads,
         0, take_tokens_kernel, args);
  launch("expert_choice.order", stream, blocks_for(tokens * kWarp), kThreads, 0, order_experts_kernel, args);
}

}  // namespace conclave::cuda
