// What attention's kernels share: which rows a block of threads works on, and who sees whom.
//
// In all of them, four neighbouring lanes share a row of scores.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/elements.cuh"

namespace conclave::cuda {

inline constexpr int kLanesOfRow = 4;

__device__ inline float sum_of_row(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ inline float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// a . b, the same on all lanes of a warp.
__device__ inline float dot_of_warp(const float* a, const float* b, std::int64_t count) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x % kWarp; i < count; i += kWarp) sum += a[i] * b[i];
  return sum_of_warp(sum);
}

// Rows of one head within [tokens, heads width].
template <class Element>
struct Rows {
  Element* first;
  std::int64_t stride;

  __device__ Element* at(std::int64_t row) const { return first + row * stride; }
};
template <class Element>
__device__ Rows<Element> rows_of(Element* tensor, std::int64_t first_token, std::int64_t head,
                                 std::int64_t heads, std::int64_t width) {
  return {tensor + (first_token * heads + head) * width, heads * width};
}

// `rows` queries (blockIdx.x) of one head (blockIdx.y) of one sequence (blockIdx.z).
struct QueryBlock {
  int first_query;
  std::int64_t head;
  std::int64_t kv_head;
  std::int64_t first_token;      // of the sequence's queries
  std::int64_t first_key_token;  // of the sequence's keys
  const std::uint8_t* padding;   // of the sequence's keys; null: there is none
};
// The last queries, which see the most keys, begin first.
__device__ inline QueryBlock query_block(const AttentionProblem& p, const std::uint8_t* padding, int rows) {
  const std::int64_t head = blockIdx.y;
  const std::int64_t first_key_token = blockIdx.z * p.keys;
  return {static_cast<int>(gridDim.x - 1 - blockIdx.x) * rows,
          head,
          head / (p.heads / p.kv_heads),
          blockIdx.z * p.queries,
          first_key_token,
          padding == nullptr ? nullptr : padding + first_key_token};
}

// `rows` keys (blockIdx.x) of one key/value head (blockIdx.y) of one sequence (blockIdx.z), whose queries
// are as many.
struct KeyBlock {
  int first_key;
  std::int64_t kv_head;
  std::int64_t first_token;
  const std::uint8_t* padding;  // of the sequence's keys; null: there is none
};
__device__ inline KeyBlock key_block(const AttentionProblem& p, const std::uint8_t* padding, int rows) {
  const std::int64_t first_token = blockIdx.z * p.keys;
  return {static_cast<int>(blockIdx.x) * rows, blockIdx.y, first_token,
          padding == nullptr ? nullptr : padding + first_token};
}

inline dim3 attention_grid(std::int64_t positions, int rows, std::int64_t heads, std::int64_t sequences) {
  return {static_cast<unsigned>((positions + rows - 1) / rows), static_cast<unsigned>(heads),
          static_cast<unsigned>(sequences)};
}

__device__ inline float scale_of_scores(const AttentionProblem& p) {
  return 1.0F / sqrtf(static_cast<float>(p.head_dim));
}

// Positions within a sequence are ints, of which kernels hold many.
__device__ inline int queries_of(const AttentionProblem& p) { return static_cast<int>(p.queries); }
__device__ inline int keys_of(const AttentionProblem& p) { return static_cast<int>(p.keys); }
// Query `query`, which may lie beyond the end, sees those of the keys [0, count) that are no padding.
__device__ inline int keys_seen(const AttentionProblem& p, int query) {
  const int keys = keys_of(p);
  if (!p.causal) return keys;
  const int count = query + 1 + (keys - queries_of(p));
  return count < keys ? count : keys;
}
__device__ inline bool is_padding(const std::uint8_t* padding, int key) {
  return padding != nullptr && padding[key] != 0;
}

}  // namespace conclave::cuda
