// Attention in tiles with an online softmax (Dao, "FlashAttention-2", 2023), in fp32 arithmetic: no tensor
// cores yet.
//
// A block of 128 threads has a tile of 32 rows (queries, or keys for their gradients) and walks over tiles of
// the other side. Four neighbouring lanes share a row: they compute the row's scores in turn, and hold the
// columns of its result in registers (hence the unrolled loops), lane l those with column % 4 == l.
#include "layers/cuda/elements.cuh"
#include "layers/cuda/launch.cuh"

namespace conclave::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kLanesOfRow = 4;
constexpr unsigned kThreadsOfTile = kTile * kLanesOfRow;
constexpr int kScoresOfLane = kTile / kLanesOfRow;

// Rows of one head within [tokens, heads head_dim].
struct Rows {
  const float* first;
  std::int64_t stride;
};

__device__ Rows rows_of(const float* tensor, std::int64_t first_token, std::int64_t head, std::int64_t heads,
                        std::int64_t head_dim) {
  return {tensor + (first_token * heads + head) * head_dim, heads * head_dim};
}

// tile[r][d], rows head_dim + 1 apart so that lanes of different rows meet different banks; zeros beyond
// `count`.
__device__ void load_tile(float* tile, Rows rows, std::int64_t first, std::int64_t count, int head_dim,
                          bool in_bf16) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * head_dim; i += static_cast<int>(kThreadsOfTile)) {
    const int r = i / head_dim;
    const int d = i % head_dim;
    float value = 0;
    if (first + r < count) value = rows.first[(first + r) * rows.stride + d];
    tile[r * (head_dim + 1) + d] = in_bf16 ? rounded_to_bf16(value) : value;
  }
}

__device__ float dot(const float* a, const float* b, int head_dim) {
  float sum = 0;
  for (int d = 0; d < head_dim; ++d) sum += a[d] * b[d];
  return sum;
}

__device__ float sum_of_row(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

__device__ bool is_visible(const AttentionProblem& p, const std::uint8_t* padding, std::int64_t query,
                           std::int64_t key) {
  if (query >= p.queries || key >= p.keys) return false;
  if (p.causal && key > query + (p.keys - p.queries)) return false;
  return padding == nullptr || padding[key] == 0;
}

// Keys that a tile of queries may see end here.
__device__ std::int64_t end_of_keys(const AttentionProblem& p, std::int64_t first_query) {
  if (!p.causal) return p.keys;
  const std::int64_t end = first_query + kTile + (p.keys - p.queries);
  return end < p.keys ? end : p.keys;
}

// One block: kTile queries (blockIdx.x) of one head (blockIdx.y) of one sequence (blockIdx.z).
template <int kColumnsOfLane>
__global__ void attention_forward_kernel(AttentionProblem p, const float* q, const float* k, const float* v,
                                         const std::uint8_t* all_padding, float* y, float* log_sum_exp) {
  float* tiles = shared_memory();
  const int head_dim = static_cast<int>(p.head_dim);
  const int tile_elements = kTile * (head_dim + 1);
  float* q_tile = tiles;
  float* k_tile = q_tile + tile_elements;
  float* v_tile = k_tile + tile_elements;
  float* p_tile = v_tile + tile_elements;  // [kTile][kTile + 1]

  const std::int64_t first_query = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t head = blockIdx.y;
  const std::int64_t kv_head = head / (p.heads / p.kv_heads);
  const std::int64_t first_token = blockIdx.z * p.queries;
  const std::int64_t first_key_token = blockIdx.z * p.keys;
  const std::uint8_t* padding = all_padding == nullptr ? nullptr : all_padding + first_key_token;
  const int row = static_cast<int>(threadIdx.x) / kLanesOfRow;
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfRow;
  const std::int64_t query = first_query + row;
  const float scale = 1.0F / sqrtf(static_cast<float>(head_dim));

  load_tile(q_tile, rows_of(q, first_token, head, p.heads, p.head_dim), first_query, p.queries, head_dim,
            p.in_bf16);
  const Rows keys = rows_of(k, first_key_token, kv_head, p.kv_heads, p.head_dim);
  const Rows values = rows_of(v, first_key_token, kv_head, p.kv_heads, p.head_dim);
  float result[kColumnsOfLane] = {};
  float maximum = -INFINITY;  // of the scores so far
  float sum = 0;              // of exp(score - maximum)
  const std::int64_t end = end_of_keys(p, first_query);
  for (std::int64_t first_key = 0; first_key < end; first_key += kTile) {
    __syncthreads();  // the tiles of before are read
    load_tile(k_tile, keys, first_key, p.keys, head_dim, p.in_bf16);
    load_tile(v_tile, values, first_key, p.keys, head_dim, p.in_bf16);
    __syncthreads();
    float scores[kScoresOfLane];
    float tile_maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < kScoresOfLane; ++i) {
      const int column = i * kLanesOfRow + lane;
      scores[i] = is_visible(p, padding, query, first_key + column)
                      ? scale * dot(q_tile + row * (head_dim + 1), k_tile + column * (head_dim + 1), head_dim)
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
      p_tile[row * (kTile + 1) + i * kLanesOfRow + lane] = p.in_bf16 ? rounded_to_bf16(weight) : weight;
    }
    sum = sum * shrink + sum_of_row(tile_sum);
    maximum = new_maximum;
    __syncwarp();  // a row's weights are its own warp's
#pragma unroll
    for (int j = 0; j < kColumnsOfLane; ++j) {
      const int d = j * kLanesOfRow + lane;
      if (d >= head_dim) continue;
      float of_tile = 0;
      for (int c = 0; c < kTile; ++c)
        of_tile += p_tile[row * (kTile + 1) + c] * v_tile[c * (head_dim + 1) + d];
      result[j] = result[j] * shrink + of_tile;
    }
  }
  if (query >= p.queries) return;
  const bool sees_nothing = maximum == -INFINITY;
  float* y_row = y + ((first_token + query) * p.heads + head) * p.head_dim;
#pragma unroll
  for (int j = 0; j < kColumnsOfLane; ++j) {
    const int d = j * kLanesOfRow + lane;
    if (d < head_dim) y_row[d] = sees_nothing ? 0.0F : result[j] / sum;
  }
  if (lane == 0 && log_sum_exp != nullptr)
    log_sum_exp[(first_token + query) * p.heads + head] = sees_nothing ? 0.0F : maximum + logf(sum);
}

// dy . y of each token's heads, a warp each: what the softmax's backward subtracts.
__global__ void attention_dot_kernel(const float* dy, const float* y, float* dots, std::int64_t rows,
                                     std::int64_t head_dim) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  float sum = 0;
  for (std::int64_t d = threadIdx.x % kWarp; d < head_dim; d += kWarp)
    sum += dy[row * head_dim + d] * y[row * head_dim + d];
  sum = sum_of_warp(sum);
  if (threadIdx.x % kWarp == 0) dots[row] = sum;
}

// dq[i] = sum_j ds[i, j] k[j], with ds = p (dy[i] . v[j] - dots[i]) scale and p = exp(score -
// log_sum_exp[i]). Blocks as in the forward.
template <int kColumnsOfLane>
__global__ void attention_dq_kernel(AttentionProblem p, const float* q, const float* k, const float* v,
                                    const std::uint8_t* all_padding, const float* log_sum_exp,
                                    const float* dots, const float* dy, float* dq) {
  float* tiles = shared_memory();
  const int head_dim = static_cast<int>(p.head_dim);
  const int tile_elements = kTile * (head_dim + 1);
  float* q_tile = tiles;
  float* dy_tile = q_tile + tile_elements;
  float* k_tile = dy_tile + tile_elements;
  float* v_tile = k_tile + tile_elements;
  float* ds_tile = v_tile + tile_elements;  // [kTile][kTile + 1]

  const std::int64_t first_query = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t head = blockIdx.y;
  const std::int64_t kv_head = head / (p.heads / p.kv_heads);
  const std::int64_t first_token = blockIdx.z * p.queries;
  const std::uint8_t* padding = all_padding == nullptr ? nullptr : all_padding + first_token;
  const int row = static_cast<int>(threadIdx.x) / kLanesOfRow;
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfRow;
  const std::int64_t query = first_query + row;
  const float scale = 1.0F / sqrtf(static_cast<float>(head_dim));
  const bool exists = query < p.queries;
  const float lse = exists ? log_sum_exp[(first_token + query) * p.heads + head] : 0.0F;
  const float dot_of_row = exists ? dots[(first_token + query) * p.heads + head] : 0.0F;

  load_tile(q_tile, rows_of(q, first_token, head, p.heads, p.head_dim), first_query, p.queries, head_dim,
            p.in_bf16);
  load_tile(dy_tile, rows_of(dy, first_token, head, p.heads, p.head_dim), first_query, p.queries, head_dim,
            p.in_bf16);
  const Rows keys = rows_of(k, first_token, kv_head, p.kv_heads, p.head_dim);
  const Rows values = rows_of(v, first_token, kv_head, p.kv_heads, p.head_dim);
  float result[kColumnsOfLane] = {};
  const std::int64_t end = end_of_keys(p, first_query);
  for (std::int64_t first_key = 0; first_key < end; first_key += kTile) {
    __syncthreads();
    load_tile(k_tile, keys, first_key, p.keys, head_dim, p.in_bf16);
    load_tile(v_tile, values, first_key, p.keys, head_dim, p.in_bf16);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kScoresOfLane; ++i) {
      const int column = i * kLanesOfRow + lane;
      float ds = 0;
      if (is_visible(p, padding, query, first_key + column)) {
        const float score =
            scale * dot(q_tile + row * (head_dim + 1), k_tile + column * (head_dim + 1), head_dim);
        const float dp = dot(dy_tile + row * (head_dim + 1), v_tile + column * (head_dim + 1), head_dim);
        ds = expf(score - lse) * (dp - dot_of_row) * scale;
      }
      ds_tile[row * (kTile + 1) + column] = p.in_bf16 ? rounded_to_bf16(ds) : ds;
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kColumnsOfLane; ++j) {
      const int d = j * kLanesOfRow + lane;
      if (d >= head_dim) continue;
      float of_tile = 0;
      for (int c = 0; c < kTile; ++c)
        of_tile += ds_tile[row * (kTile + 1) + c] * k_tile[c * (head_dim + 1) + d];
      result[j] += of_tile;
    }
  }
  if (!exists) return;
  float* dq_row = dq + ((first_token + query) * p.heads + head) * p.head_dim;
#pragma unroll
  for (int j = 0; j < kColumnsOfLane; ++j) {
    const int d = j * kLanesOfRow + lane;
    if (d < head_dim) dq_row[d] = result[j];
  }
}

// dk[j] = sum_i ds[i, j] q[i], dv[j] = sum_i p[i, j] dy[i], over the queries of all heads of the group, head
// by head. One block: kTile keys (blockIdx.x) of one key/value head (blockIdx.y) of one sequence
// (blockIdx.z).
template <int kColumnsOfLane>
__global__ void attention_dkv_kernel(AttentionProblem p, const float* q, const float* k, const float* v,
                                     const std::uint8_t* all_padding, const float* log_sum_exp,
                                     const float* dots, const float* dy, float* dk, float* dv) {
  float* tiles = shared_memory();
  const int head_dim = static_cast<int>(p.head_dim);
  const int tile_elements = kTile * (head_dim + 1);
  float* q_tile = tiles;
  float* dy_tile = q_tile + tile_elements;
  float* k_tile = dy_tile + tile_elements;
  float* v_tile = k_tile + tile_elements;
  float* p_tile = v_tile + tile_elements;         // [key][query], rows kTile + 1 apart
  float* ds_tile = p_tile + kTile * (kTile + 1);  // likewise

  const std::int64_t first_key = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t kv_head = blockIdx.y;
  const std::int64_t heads_of_group = p.heads / p.kv_heads;
  const std::int64_t first_token = blockIdx.z * p.queries;
  const std::uint8_t* padding = all_padding == nullptr ? nullptr : all_padding + first_token;
  const int row = static_cast<int>(threadIdx.x) / kLanesOfRow;
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfRow;
  const std::int64_t key = first_key + row;
  const float scale = 1.0F / sqrtf(static_cast<float>(head_dim));

  load_tile(k_tile, rows_of(k, first_token, kv_head, p.kv_heads, p.head_dim), first_key, p.keys, head_dim,
            p.in_bf16);
  load_tile(v_tile, rows_of(v, first_token, kv_head, p.kv_heads, p.head_dim), first_key, p.keys, head_dim,
            p.in_bf16);
  float dk_result[kColumnsOfLane] = {};
  float dv_result[kColumnsOfLane] = {};
  const std::int64_t first_seeing = p.causal ? first_key : 0;  // earlier queries see none of these keys
  for (std::int64_t head = kv_head * heads_of_group; head < (kv_head + 1) * heads_of_group; ++head) {
    const Rows queries = rows_of(q, first_token, head, p.heads, p.head_dim);
    const Rows dys = rows_of(dy, first_token, head, p.heads, p.head_dim);
    for (std::int64_t first_query = first_seeing; first_query < p.queries; first_query += kTile) {
      __syncthreads();
      load_tile(q_tile, queries, first_query, p.queries, head_dim, p.in_bf16);
      load_tile(dy_tile, dys, first_query, p.queries, head_dim, p.in_bf16);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kScoresOfLane; ++i) {
        const int column = i * kLanesOfRow + lane;
        const std::int64_t query = first_query + column;
        float weight = 0;
        float ds = 0;
        if (is_visible(p, padding, query, key)) {
          const std::int64_t at = (first_token + query) * p.heads + head;
          const float score =
              scale * dot(q_tile + column * (head_dim + 1), k_tile + row * (head_dim + 1), head_dim);
          const float dp = dot(dy_tile + column * (head_dim + 1), v_tile + row * (head_dim + 1), head_dim);
          weight = expf(score - log_sum_exp[at]);
          ds = weight * (dp - dots[at]) * scale;
        }
        p_tile[row * (kTile + 1) + column] = p.in_bf16 ? rounded_to_bf16(weight) : weight;
        ds_tile[row * (kTile + 1) + column] = p.in_bf16 ? rounded_to_bf16(ds) : ds;
      }
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kColumnsOfLane; ++j) {
        const int d = j * kLanesOfRow + lane;
        if (d >= head_dim) continue;
        float dk_of_tile = 0;
        float dv_of_tile = 0;
        for (int c = 0; c < kTile; ++c) {
          dk_of_tile += ds_tile[row * (kTile + 1) + c] * q_tile[c * (head_dim + 1) + d];
          dv_of_tile += p_tile[row * (kTile + 1) + c] * dy_tile[c * (head_dim + 1) + d];
        }
        dk_result[j] += dk_of_tile;
        dv_result[j] += dv_of_tile;
      }
    }
  }
  if (key >= p.keys) return;
  const std::int64_t at = ((first_token + key) * p.kv_heads + kv_head) * p.head_dim;
#pragma unroll
  for (int j = 0; j < kColumnsOfLane; ++j) {
    const int d = j * kLanesOfRow + lane;
    if (d >= head_dim) continue;
    dk[at + d] = dk_result[j];
    dv[at + d] = dv_result[j];
  }
}

dim3 grid_of(std::int64_t rows, std::int64_t heads, std::int64_t sequences) {
  return {static_cast<unsigned>((rows + kTile - 1) / kTile), static_cast<unsigned>(heads),
          static_cast<unsigned>(sequences)};
}

std::size_t shared_bytes(std::int64_t head_dim, int tiles, int score_tiles) {
  const std::int64_t floats = tiles * kTile * (head_dim + 1) + score_tiles * kTile * (kTile + 1);
  return static_cast<std::size_t>(floats) * sizeof(float);
}

// Calls function(std::integral_constant of the columns that a lane holds).
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

}  // namespace

void attention_forward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                       const float* v, const std::uint8_t* padding, float* y, float* log_sum_exp) {
  if (p.sequences * p.queries == 0) return;
  with_columns(p.head_dim, [&]<class Width>(Width) {
    launch("attention_forward", stream, grid_of(p.queries, p.heads, p.sequences), kThreadsOfTile,
           shared_bytes(p.head_dim, 3, 1), attention_forward_kernel<Width::value>, p, q, k, v, padding, y,
           log_sum_exp);
  });
}

void attention_backward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                        const float* v, const std::uint8_t* padding, const float* y, const float* log_sum_exp,
                        const float* dy, float* dots, float* dq, float* dk, float* dv) {
  const std::int64_t rows = p.sequences * p.queries * p.heads;
  if (rows == 0) return;
  launch("attention_dot", stream, blocks_for(rows * kWarp), kThreads, 0, attention_dot_kernel, dy, y, dots,
         rows, p.head_dim);
  with_columns(p.head_dim, [&]<class Width>(Width) {
    launch("attention_dq", stream, grid_of(p.queries, p.heads, p.sequences), kThreadsOfTile,
           shared_bytes(p.head_dim, 4, 1), attention_dq_kernel<Width::value>, p, q, k, v, padding,
           log_sum_exp, dots, dy, dq);
    launch("attention_dkv", stream, grid_of(p.keys, p.kv_heads, p.sequences), kThreadsOfTile,
           shared_bytes(p.head_dim, 4, 2), attention_dkv_kernel<Width::value>, p, q, k, v, padding,
           log_sum_exp, dots, dy, dk, dv);
  });
}

}  // namespace conclave::cuda
