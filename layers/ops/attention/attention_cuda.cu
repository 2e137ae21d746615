// Attention in fp32: in tiles with an online softmax (Dao, "FlashAttention-2", 2023), by plain arithmetic.
// Problems in bf16 go to tensor cores (attention_mma.cuh).
//
// A block of 128 threads has a tile of 32 rows (queries, or keys for their gradients) and walks over tiles of
// the other side. The lanes that share a row compute its scores in turn, and hold the columns of its result
// in registers (hence the unrolled loops), lane l those with column % 4 == l.
#include "layers/cuda/launch.cuh"
#include "layers/ops/attention/attention_blocks.cuh"
#include "layers/ops/attention/attention_mma.cuh"

namespace conclave::cuda {
namespace {

constexpr int kTile = 32;
constexpr unsigned kThreadsOfTile = kTile * kLanesOfRow;
constexpr int kScoresOfLane = kTile / kLanesOfRow;

// Tiles in shared memory: of operands, rows head_dim + 1 apart so that lanes of different rows meet different
// banks, and of scores, likewise.
struct Tiles {
  float* memory;
  int head_dim;

  __device__ float* operand(int tile, int row = 0) const {
    return memory + (tile * kTile + row) * (head_dim + 1);
  }
  __device__ float* scores(int operands, int tile, int row) const {
    return operand(operands) + (tile * kTile + row) * (kTile + 1);
  }
};
std::size_t shared_bytes(std::int64_t head_dim, int operands, int scores) {
  return static_cast<std::size_t>(kTile * (operands * (head_dim + 1) + scores * (kTile + 1))) * sizeof(float);
}

__device__ int row_of_thread() { return static_cast<int>(threadIdx.x) / kLanesOfRow; }
__device__ int lane_of_row() { return static_cast<int>(threadIdx.x) % kLanesOfRow; }

// Rows of one head into a tile, zeros beyond `count`.
__device__ void load_tile(const Tiles& tiles, int tile, Rows<const float> rows, int first, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * tiles.head_dim;
       i += static_cast<int>(kThreadsOfTile)) {
    const int r = i / tiles.head_dim;
    const int d = i % tiles.head_dim;
    tiles.operand(tile, r)[d] = first + r < count ? rows.at(first + r)[d] : 0.0F;
  }
}

__device__ float dot(const float* a, const float* b, int head_dim) {
  float sum = 0;
  for (int d = 0; d < head_dim; ++d) sum += a[d] * b[d];
  return sum;
}

// result = result * shrink + weights [kTile] values [kTile, head_dim], in the columns of this lane.
template <int kColumnsOfLane>
__device__ void add_product(float (&result)[kColumnsOfLane], float shrink, const float* weights,
                            const Tiles& tiles, int values) {
#pragma unroll
  for (int j = 0; j < kColumnsOfLane; ++j) {
    const int d = j * kLanesOfRow + lane_of_row();
    if (d >= tiles.head_dim) continue;
    float of_tile = 0;
#pragma unroll 4
    for (int c = 0; c < kTile; ++c) of_tile += weights[c] * tiles.operand(values, c)[d];
    result[j] = result[j] * shrink + of_tile;
  }
}

template <int kColumnsOfLane>
__device__ void store_row(float* row, const float (&result)[kColumnsOfLane], float factor, int head_dim) {
#pragma unroll
  for (int j = 0; j < kColumnsOfLane; ++j) {
    const int d = j * kLanesOfRow + lane_of_row();
    if (d < head_dim) row[d] = result[j] * factor;
  }
}

template <int kColumnsOfLane>
__global__ void attention_forward_kernel(AttentionProblem p, const float* all_q, const float* all_k,
                                         const float* all_v, const std::uint8_t* padding, float* all_y,
                                         float* log_sum_exp) {
  enum Operand : int { kQ, kK, kV, kOperands };
  const Tiles tiles{shared_memory(), static_cast<int>(p.head_dim)};
  const QueryBlock block = query_block(p, padding, kTile);
  const Rows q = rows_of(all_q, block.first_token, block.head, p.heads, p.head_dim);
  const Rows k = rows_of(all_k, block.first_key_token, block.kv_head, p.kv_heads, p.head_dim);
  const Rows v = rows_of(all_v, block.first_key_token, block.kv_head, p.kv_heads, p.head_dim);
  const int row = row_of_thread();
  const int query = block.first_query + row;
  const int visible = keys_seen(p, query);
  const float scale = scale_of_scores(p);

  load_tile(tiles, kQ, q, block.first_query, queries_of(p));
  float* weights = tiles.scores(kOperands, 0, row);
  float result[kColumnsOfLane] = {};
  float maximum = -INFINITY;  // of the scores so far
  float sum = 0;              // of exp(score - maximum)
  const int end = keys_seen(p, block.first_query + kTile - 1);
  for (int first_key = 0; first_key < end; first_key += kTile) {
    __syncthreads();  // the tiles of before are read
    load_tile(tiles, kK, k, first_key, keys_of(p));
    load_tile(tiles, kV, v, first_key, keys_of(p));
    __syncthreads();
    float scores[kScoresOfLane];
    float tile_maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < kScoresOfLane; ++i) {
      const int column = i * kLanesOfRow + lane_of_row();
      const int key = first_key + column;
      scores[i] = key < visible && !is_padding(block.padding, key)
                      ? scale * dot(tiles.operand(kQ, row), tiles.operand(kK, column), tiles.head_dim)
                      : -INFINITY;
      tile_maximum = fmaxf(tile_maximum, scores[i]);
    }
    const float new_maximum = fmaxf(maximum, max_of_row(tile_maximum));
    // Nothing seen yet: weights of 0, not e^(inf - inf).
    const float shift = new_maximum == -INFINITY ? 0.0F : new_maximum;
    const float shrink = expf(maximum - shift);
    float tile_sum = 0;
#pragma unroll
    for (int i = 0; i < kScoresOfLane; ++i) {
      const float weight = expf(scores[i] - shift);
      tile_sum += weight;
      weights[i * kLanesOfRow + lane_of_row()] = weight;
    }
    sum = sum * shrink + sum_of_row(tile_sum);
    maximum = new_maximum;
    __syncwarp();  // a row's weights are its own warp's
    add_product(result, shrink, weights, tiles, kV);
  }
  if (query >= queries_of(p)) return;
  const bool sees_nothing = maximum == -INFINITY;
  const Rows y = rows_of(all_y, block.first_token, block.head, p.heads, p.head_dim);
  store_row(y.at(query), result, sees_nothing ? 0.0F : 1.0F / sum, tiles.head_dim);
  if (lane_of_row() == 0 && log_sum_exp != nullptr)
    log_sum_exp[(block.first_token + query) * p.heads + block.head] =
        sees_nothing ? 0.0F : maximum + logf(sum);
}

// dy . y of each token's heads, a warp each: what the softmax's backward subtracts.
__global__ void attention_dot_kernel(const float* dy, const float* y, float* dots, std::int64_t rows,
                                     std::int64_t head_dim) {
  const int row = global_thread() / kWarp;
  if (row >= rows) return;
  const float sum = dot_of_warp(dy + row * head_dim, y + row * head_dim, head_dim);
  if (threadIdx.x % kWarp == 0) dots[row] = sum;
}

// dq[i] = sum_j ds[i, j] k[j], with ds = p (dy[i] . v[j] - dots[i]) scale and p = exp(score -
// log_sum_exp[i]).
template <int kColumnsOfLane>
__global__ void attention_dq_kernel(AttentionProblem p, const float* all_q, const float* all_k,
                                    const float* all_v, const std::uint8_t* padding, const float* log_sum_exp,
                                    const float* dots, const float* all_dy, float* all_dq) {
  enum Operand : int { kQ, kDy, kK, kV, kOperands };
  const Tiles tiles{shared_memory(), static_cast<int>(p.head_dim)};
  const QueryBlock block = query_block(p, padding, kTile);
  const Rows q = rows_of(all_q, block.first_token, block.head, p.heads, p.head_dim);
  const Rows dy = rows_of(all_dy, block.first_token, block.head, p.heads, p.head_dim);
  const Rows k = rows_of(all_k, block.first_key_token, block.kv_head, p.kv_heads, p.head_dim);
  const Rows v = rows_of(all_v, block.first_key_token, block.kv_head, p.kv_heads, p.head_dim);
  const int row = row_of_thread();
  const int query = block.first_query + row;
  const int visible = keys_seen(p, query);
  const float scale = scale_of_scores(p);
  const bool exists = query < queries_of(p);
  const std::int64_t at = (block.first_token + query) * p.heads + block.head;
  const float lse = exists ? log_sum_exp[at] : 0.0F;
  const float dot_of_query = exists ? dots[at] : 0.0F;

  load_tile(tiles, kQ, q, block.first_query, queries_of(p));
  load_tile(tiles, kDy, dy, block.first_query, queries_of(p));
  float* ds = tiles.scores(kOperands, 0, row);
  float result[kColumnsOfLane] = {};
  const int end = keys_seen(p, block.first_query + kTile - 1);
  for (int first_key = 0; first_key < end; first_key += kTile) {
    __syncthreads();  // the tiles of before are read
    load_tile(tiles, kK, k, first_key, keys_of(p));
    load_tile(tiles, kV, v, first_key, keys_of(p));
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kScoresOfLane; ++i) {
      const int column = i * kLanesOfRow + lane_of_row();
      const int key = first_key + column;
      ds[column] = 0;
      if (key >= visible || is_padding(block.padding, key)) continue;
      const float score = scale * dot(tiles.operand(kQ, row), tiles.operand(kK, column), tiles.head_dim);
      const float dp = dot(tiles.operand(kDy, row), tiles.operand(kV, column), tiles.head_dim);
      ds[column] = expf(score - lse) * (dp - dot_of_query) * scale;
    }
    __syncwarp();
    add_product(result, 1.0F, ds, tiles, kK);
  }
  if (!exists) return;
  const Rows dq = rows_of(all_dq, block.first_token, block.head, p.heads, p.head_dim);
  store_row(dq.at(query), result, 1.0F, tiles.head_dim);
}

// dk[j] = sum_i ds[i, j] q[i], dv[j] = sum_i p[i, j] dy[i], over the queries of all heads of the group, head
// by head.
template <int kColumnsOfLane>
__global__ void attention_dkv_kernel(AttentionProblem p, const float* all_q, const float* all_k,
                                     const float* all_v, const std::uint8_t* padding,
                                     const float* log_sum_exp, const float* dots, const float* all_dy,
                                     float* all_dk, float* all_dv) {
  enum Operand : int { kQ, kDy, kK, kV, kOperands };
  const Tiles tiles{shared_memory(), static_cast<int>(p.head_dim)};
  const KeyBlock block = key_block(p, padding, kTile);
  const Rows k = rows_of(all_k, block.first_token, block.kv_head, p.kv_heads, p.head_dim);
  const Rows v = rows_of(all_v, block.first_token, block.kv_head, p.kv_heads, p.head_dim);
  const int row = row_of_thread();
  const int key = block.first_key + row;
  const bool is_seen = key < keys_of(p) && !is_padding(block.padding, key);
  const float scale = scale_of_scores(p);

  load_tile(tiles, kK, k, block.first_key, keys_of(p));
  load_tile(tiles, kV, v, block.first_key, keys_of(p));
  float* weights = tiles.scores(kOperands, 0, row);  // by query
  float* ds = tiles.scores(kOperands, 1, row);       // by query
  float dk_result[kColumnsOfLane] = {};
  float dv_result[kColumnsOfLane] = {};
  const int first_seeing = p.causal ? block.first_key : 0;  // earlier queries see none of these keys
  const std::int64_t heads_of_group = p.heads / p.kv_heads;
  for (std::int64_t head = block.kv_head * heads_of_group; head < (block.kv_head + 1) * heads_of_group;
       ++head) {
    const Rows q = rows_of(all_q, block.first_token, head, p.heads, p.head_dim);
    const Rows dy = rows_of(all_dy, block.first_token, head, p.heads, p.head_dim);
    for (int first_query = first_seeing; first_query < queries_of(p); first_query += kTile) {
      __syncthreads();  // the tiles of before are read
      load_tile(tiles, kQ, q, first_query, queries_of(p));
      load_tile(tiles, kDy, dy, first_query, queries_of(p));
      __syncthreads();
#pragma unroll 1
      for (int i = 0; i < kScoresOfLane; ++i) {
        const int column = i * kLanesOfRow + lane_of_row();
        const int query = first_query + column;
        weights[column] = ds[column] = 0;
        if (!is_seen || query >= queries_of(p) || key >= keys_seen(p, query)) continue;
        const std::int64_t at = (block.first_token + query) * p.heads + head;
        const float score = scale * dot(tiles.operand(kQ, column), tiles.operand(kK, row), tiles.head_dim);
        const float dp = dot(tiles.operand(kDy, column), tiles.operand(kV, row), tiles.head_dim);
        weights[column] = expf(score - log_sum_exp[at]);
        ds[column] = weights[column] * (dp - dots[at]) * scale;
      }
      __syncwarp();
      add_product(dk_result, 1.0F, ds, tiles, kQ);
      add_product(dv_result, 1.0F, weights, tiles, kDy);
    }
  }
  if (key >= keys_of(p)) return;
  const Rows dk = rows_of(all_dk, block.first_token, block.kv_head, p.kv_heads, p.head_dim);
  const Rows dv = rows_of(all_dv, block.first_token, block.kv_head, p.kv_heads, p.head_dim);
  store_row(dk.at(key), dk_result, 1.0F, tiles.head_dim);
  store_row(dv.at(key), dv_result, 1.0F, tiles.head_dim);
}

// Calls function(the columns that a lane holds).
template <int kColumns>
struct Columns {
  static constexpr int value = kColumns;
};
template <class Function>
void with_columns(std::int64_t head_dim, Function function) {
  if (head_dim <= 64) {
    function(Columns<64 / kLanesOfRow>());
  } else if (head_dim <= 128) {
    function(Columns<128 / kLanesOfRow>());
  } else {
    function(Columns<kMaxHeadDim / kLanesOfRow>());
  }
}

std::int64_t rows_of_queries(const AttentionProblem& p) { return p.sequences * p.queries * p.heads; }

}  // namespace

std::int64_t widest_head() {
  constexpr std::size_t kBytesOfWidest = std::size_t{137} << 10;  // dk and dv, in fp32 and in bf16
  return most_shared_bytes("attention") >= kBytesOfWidest ? kMaxHeadDim : kMaxHeadDim / 2;
}

std::int64_t attention_forward_scratch_bytes(const AttentionProblem& p) {
  return p.in_bf16 ? mma::attention_forward_scratch_bytes(p) : 0;
}

void attention_forward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                       const float* v, const std::uint8_t* padding, float* y, float* log_sum_exp,
                       void* scratch) {
  if (rows_of_queries(p) == 0) return;
  if (p.in_bf16) return mma::attention_forward(stream, p, q, k, v, padding, y, log_sum_exp, scratch);
  with_columns(p.head_dim, [&]<class Width>(Width) {
    launch("attention_forward", stream, attention_grid(p.queries, kTile, p.heads, p.sequences),
           kThreadsOfTile, shared_bytes(p.head_dim, 3, 1), attention_forward_kernel<Width::value>, p, q, k, v,
           padding, y, log_sum_exp);
  });
}

std::int64_t attention_backward_scratch_bytes(const AttentionProblem& p) {
  if (p.in_bf16) return mma::attention_backward_scratch_bytes(p);
  return rows_of_queries(p) * static_cast<std::int64_t>(sizeof(float));  // dots
}

void attention_backward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                        const float* v, const std::uint8_t* padding, const float* y, const float* log_sum_exp,
                        const float* dy, float* dq, float* dk, float* dv, void* scratch) {
  const std::int64_t rows = rows_of_queries(p);
  if (rows == 0) return;
  if (p.in_bf16) {
    return mma::attention_backward(stream, p, q, k, v, padding, y, log_sum_exp, dy, dq, dk, dv, scratch);
  }
  auto* dots = static_cast<float*>(scratch);  // [T, H]
  launch("attention_dot", stream, blocks_for(rows * kWarp), kThreads, 0, attention_dot_kernel, dy, y, dots,
         rows, p.head_dim);
  with_columns(p.head_dim, [&]<class Width>(Width) {
    launch("attention_dq", stream, attention_grid(p.queries, kTile, p.heads, p.sequences), kThreadsOfTile,
           shared_bytes(p.head_dim, 4, 1), attention_dq_kernel<Width::value>, p, q, k, v, padding,
           log_sum_exp, dots, dy, dq);
    launch("attention_dkv", stream, attention_grid(p.keys, kTile, p.kv_heads, p.sequences), kThreadsOfTile,
           shared_bytes(p.head_dim, 4, 2), attention_dkv_kernel<Width::value>, p, q, k, v, padding,
           log_sum_exp, dots, dy, dk, dv);
  });
}

}  // namespace conclave::cuda
