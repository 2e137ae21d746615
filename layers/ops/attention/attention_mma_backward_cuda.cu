#include "layers/ops/attention/attention_mma.cuh"

namespace conclave::cuda::mma {
namespace {

// The other side's rows that are in shared memory at a time; twice, since the next are copied meanwhile.
constexpr int kColumns = 32;

// Of one query, what its scores' gradients need.
struct alignas(8) QueryTerms {
  float log2_sum_exp;  // log2(e) log_sum_exp
  float dy_dot_y;
};
constexpr int kTermsOfPiece = 16 / sizeof(QueryTerms);

// Terms lie as [sequences, H, stride], in whole pieces of 16 bytes.
std::int64_t stride_of_terms(const AttentionProblem& p) {
  return (p.queries + kTermsOfPiece - 1) / kTermsOfPiece * kTermsOfPiece;
}

// A warp for each head of each token.
__global__ void attention_terms_kernel(AttentionProblem p, const float* dy, const float* y,
                                       const float* log_sum_exp, QueryTerms* terms, std::int64_t stride) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= p.sequences * p.queries * p.heads) return;
  const float dot = dot_of_warp(dy + row * p.head_dim, y + row * p.head_dim, p.head_dim);
  if (lane() != 0) return;
  const std::int64_t token = row / p.heads;
  const std::int64_t head = row % p.heads;
  terms[(token / p.queries * p.heads + head) * stride + token % p.queries] = {log_sum_exp[row] * kLog2E, dot};
}

// Begins to copy the terms of kColumns queries from `first` on, zeros from `count` on.
__device__ void fill_terms(QueryTerms* to, const QueryTerms* from, int first, int count) {
  if (threadIdx.x >= kColumns / kTermsOfPiece) return;
  const int i = static_cast<int>(threadIdx.x) * kTermsOfPiece;
  const int there = count - first - i;
  const int bytes =
      static_cast<int>(sizeof(QueryTerms)) * static_cast<int>(there < 0               ? 0
                                                              : there < kTermsOfPiece ? there
                                                                                      : kTermsOfPiece);
  copy_async_16(to + i, from + (bytes > 0 ? first + i : 0), bytes);
}

// How many rows a warp has, in 16s, and how many columns it computes at a time: as the registers allow.
template <int kTiles>
struct Rectangle {
  static constexpr int kRowTiles = kTiles;
  static constexpr int kRowsOfWarp = 16 * kRowTiles;
  static constexpr int kRows = kWarpsOfBlock * kRowsOfWarp;
  static constexpr int kColumnsAtOnce = 32 / kRowTiles;
  using Sums = float[kRowTiles][kColumnsAtOnce / 8][4];
};

template <int kWidth>
struct QueryTiling : Rectangle<kWidth <= 64 ? 2 : 1> {
  static constexpr std::size_t kSharedBytes = Tile<kWidth>::bytes(2 * QueryTiling::kRows + 4 * kColumns);
};
template <int kWidth>
struct KeyTiling : Rectangle<kWidth <= 64 ? 2 : 1> {
  static constexpr std::size_t kSharedBytes =
      Tile<kWidth>::bytes(2 * KeyTiling::kRows + 4 * kColumns) + 2 * kColumns * sizeof(QueryTerms);
};

// dq[i] = sum_j ds[i, j] k[j], with ds = p (dy[i] . v[j] - dy[i] . y[i]) scale and p = e^(score -
// log_sum_exp[i]).
template <int kWidth>
__global__ void __launch_bounds__(kThreadsOfBlock)
    attention_dq_mma_kernel(AttentionProblem p, PackedHeads packed, const std::uint8_t* padding,
                            const QueryTerms* terms, std::int64_t stride_of_terms, float* dq) {
  using Of = QueryTiling<kWidth>;
  const Tile<kWidth> q_tile{reinterpret_cast<Bf16*>(shared_memory())};
  const Tile<kWidth> dy_tile = q_tile.from(Of::kRows);
  const Tile<kWidth> k_tiles = dy_tile.from(Of::kRows);
  const Tile<kWidth> v_tiles = k_tiles.from(2 * kColumns);

  const QueryBlock block = query_block(p, padding, Of::kRows);
  const auto queries = [&](const Bf16* all) {
    return rows_of(all, block.first_token, block.head, p.heads, kWidth);
  };
  const auto keys = [&](const Bf16* all) {
    return rows_of(all, block.first_key_token, block.kv_head, p.kv_heads, kWidth);
  };
  const int first_row = warp() * Of::kRowsOfWarp;
  const int first_query = block.first_query + first_row;  // of the warp
  const float scale = scale_of_scores(p);
  const float log2_scale = scale * kLog2E;

  const int end = keys_seen(p, block.first_query + Of::kRows - 1);
  const auto fill_keys = [&](int first_key, int buffer) {
    fill<kColumns>(k_tiles.from(buffer * kColumns), keys(packed.k), first_key, keys_of(p));
    fill<kColumns>(v_tiles.from(buffer * kColumns), keys(packed.v), first_key, keys_of(p));
    commit_copies();
  };
  fill<Of::kRows>(q_tile, queries(packed.q), block.first_query, queries_of(p));
  fill<Of::kRows>(dy_tile, queries(packed.dy), block.first_query, queries_of(p));
  fill_keys(0, 0);

  QueryTerms of_row[Of::kRowTiles][2];
#pragma unroll
  for (int r = 0; r < Of::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = first_query + 16 * r + row_of_sum(2 * half);
      of_row[r][half] = {0, 0};
      if (query < queries_of(p)) {
        of_row[r][half] = terms[(blockIdx.z * p.heads + block.head) * stride_of_terms + query];
      }
    }
  }

  float result[Of::kRowTiles][kWidth / 8][4] = {};
  int buffer = 0;
  for (int first_key = 0; first_key < end; first_key += kColumns, buffer ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // this tile is there, the one before is read
    if (first_key + kColumns < end) fill_keys(first_key + kColumns, buffer ^ 1);
    const bool hides = block.padding != nullptr || first_key + kColumns > keys_seen(p, first_query);
#pragma unroll 1
    for (int column = 0; column < kColumns; column += Of::kColumnsAtOnce) {
      const int key = first_key + column;
      if (key >= keys_seen(p, first_query + Of::kRowsOfWarp - 1)) break;
      const int in_tiles = buffer * kColumns + column;
      typename Of::Sums scores = {};
      typename Of::Sums dp = {};
      multiply_by_transposed(scores, q_tile, first_row, k_tiles, in_tiles);
      multiply_by_transposed(dp, dy_tile, first_row, v_tiles, in_tiles);
      if (hides) hide_invisible(scores, p, block.padding, first_query, key);
      typename Of::Sums& ds = dp;
#pragma unroll
      for (int r = 0; r < Of::kRowTiles; ++r) {
#pragma unroll
        for (int c = 0; c < Of::kColumnsAtOnce / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const QueryTerms& query = of_row[r][i / 2];
            const float weight = power_of_two(scores[r][c][i] * log2_scale - query.log2_sum_exp);
            ds[r][c][i] = weight * (dp[r][c][i] - query.dy_dot_y) * scale;
          }
        }
      }
      multiply(result, as_left(ds), k_tiles, in_tiles);
    }
  }
  store(result, rows_of(dq, block.first_token, block.head, p.heads, p.head_dim), first_query, queries_of(p),
        static_cast<int>(p.head_dim));
}

// dk[j] = sum_i ds[i, j] q[i], dv[j] = sum_i p[i, j] dy[i], over the queries of all heads of the group, head
// by head. Either may be left out, where registers don't hold both.
template <int kWidth, bool kOfKeys, bool kOfValues>
__global__ void __launch_bounds__(kThreadsOfBlock)
    attention_dkv_mma_kernel(AttentionProblem p, PackedHeads packed, const std::uint8_t* padding,
                             const QueryTerms* terms, std::int64_t stride_of_terms, float* dk, float* dv) {
  using Of = KeyTiling<kWidth>;
  const Tile<kWidth> k_tile{reinterpret_cast<Bf16*>(shared_memory())};
  const Tile<kWidth> v_tile = k_tile.from(Of::kRows);
  const Tile<kWidth> q_tiles = v_tile.from(Of::kRows);
  const Tile<kWidth> dy_tiles = q_tiles.from(2 * kColumns);
  auto* tile_terms = reinterpret_cast<QueryTerms*>(dy_tiles.from(2 * kColumns).elements);

  const KeyBlock block = key_block(p, padding, Of::kRows);
  const auto keys = [&](auto* all, std::int64_t width) {
    return rows_of(all, block.first_token, block.kv_head, p.kv_heads, width);
  };
  const int first_row = warp() * Of::kRowsOfWarp;
  const int first_key = block.first_key + first_row;  // of the warp
  const float scale = scale_of_scores(p);
  const float log2_scale = scale * kLog2E;

  const std::int64_t heads_of_group = p.heads / p.kv_heads;
  const int first_seeing = p.causal ? block.first_key : 0;  // earlier queries see none of these keys
  const auto fill_queries = [&](std::int64_t head, int first_query, int buffer) {
    const auto queries = [&](const Bf16* all) {
      return rows_of(all, block.first_token, head, p.heads, kWidth);
    };
    fill<kColumns>(q_tiles.from(buffer * kColumns), queries(packed.q), first_query, queries_of(p));
    fill<kColumns>(dy_tiles.from(buffer * kColumns), queries(packed.dy), first_query, queries_of(p));
    fill_terms(tile_terms + buffer * kColumns, terms + (blockIdx.z * p.heads + head) * stride_of_terms,
               first_query, queries_of(p));
    commit_copies();
  };
  fill<Of::kRows>(k_tile, keys(static_cast<const Bf16*>(packed.k), kWidth), block.first_key, keys_of(p));
  fill<Of::kRows>(v_tile, keys(static_cast<const Bf16*>(packed.v), kWidth), block.first_key, keys_of(p));
  fill_queries(block.kv_head * heads_of_group, first_seeing, 0);

  float dk_result[Of::kRowTiles][kWidth / 8][4] = {};
  float dv_result[Of::kRowTiles][kWidth / 8][4] = {};
  int buffer = 0;
  const std::int64_t end_of_heads = (block.kv_head + 1) * heads_of_group;
  for (std::int64_t head = block.kv_head * heads_of_group; head < end_of_heads; ++head) {
    for (int first_query = first_seeing; first_query < queries_of(p); first_query += kColumns, buffer ^= 1) {
      wait_for_copies<0>();
      __syncthreads();  // this tile is there, the one before is read
      if (first_query + kColumns < queries_of(p)) {
        fill_queries(head, first_query + kColumns, buffer ^ 1);
      } else if (head + 1 < end_of_heads) {
        fill_queries(head + 1, first_seeing, buffer ^ 1);
      }
      const int last_key = first_key + Of::kRowsOfWarp - 1;
      const bool hides = p.causal && last_key > first_query;
#pragma unroll 1
      for (int column = 0; column < kColumns; column += Of::kColumnsAtOnce) {
        const int query = first_query + column;
        if (p.causal && query + Of::kColumnsAtOnce <= first_key) continue;
        const int in_tiles = buffer * kColumns + column;
        typename Of::Sums weights = {};  // first the scores
        multiply_by_transposed(weights, k_tile, first_row, q_tiles, in_tiles);
        typename Of::Sums ds = {};  // first the gradients of the weights
        if constexpr (kOfKeys) multiply_by_transposed(ds, v_tile, first_row, dy_tiles, in_tiles);
#pragma unroll
        for (int c = 0; c < Of::kColumnsAtOnce / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int of_query = 8 * c + column_of_sum(i);
            const QueryTerms& its = tile_terms[in_tiles + of_query];
#pragma unroll
            for (int r = 0; r < Of::kRowTiles; ++r) {
              float& weight = weights[r][c][i];
              weight = power_of_two(weight * log2_scale - its.log2_sum_exp);
              if (hides && first_key + 16 * r + row_of_sum(i) > query + of_query) weight = 0;
              ds[r][c][i] = weight * (ds[r][c][i] - its.dy_dot_y) * scale;
            }
          }
        }
        if constexpr (kOfKeys) multiply(dk_result, as_left(ds), q_tiles, in_tiles);
        if constexpr (kOfValues) multiply(dv_result, as_left(weights), dy_tiles, in_tiles);
      }
    }
  }
  // Nobody sees padding.
#pragma unroll
  for (int r = 0; r < Of::kRowTiles; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first_key + 16 * r + row_of_sum(i);
      if (key >= keys_of(p) || !is_padding(block.padding, key)) continue;
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) dk_result[r][c][i] = dv_result[r][c][i] = 0;
    }
  }
  const int head_dim = static_cast<int>(p.head_dim);
  if constexpr (kOfKeys) store(dk_result, keys(dk, p.head_dim), first_key, keys_of(p), head_dim);
  if constexpr (kOfValues) store(dv_result, keys(dv, p.head_dim), first_key, keys_of(p), head_dim);
}

}  // namespace

std::int64_t attention_backward_scratch_bytes(const AttentionProblem& p) {
  return packed_bytes(p, true) +
         p.sequences * p.heads * stride_of_terms(p) * static_cast<std::int64_t>(sizeof(QueryTerms));
}

void attention_backward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                        const float* v, const std::uint8_t* padding, const float* y, const float* log_sum_exp,
                        const float* dy, float* dq, float* dk, float* dv, void* scratch) {
  const PackedHeads packed = pack(stream, p, q, k, v, dy, scratch);
  auto* terms =
      reinterpret_cast<QueryTerms*>(static_cast<std::byte*>(scratch) + packed_bytes(p, /*with_dy=*/true));
  const std::int64_t stride = stride_of_terms(p);
  launch("attention_terms", stream, blocks_for(p.sequences * p.queries * p.heads * kWarp), kThreads, 0,
         attention_terms_kernel, p, dy, y, log_sum_exp, terms, stride);
  with_width(p.head_dim, [&]<class W>(W) {
    constexpr int kWidth = W::value;
    using OfQueries = QueryTiling<kWidth>;
    launch("attention_dq", stream, attention_grid(p.queries, OfQueries::kRows, p.heads, p.sequences),
           kThreadsOfBlock, OfQueries::kSharedBytes, attention_dq_mma_kernel<kWidth>, p, packed, padding,
           terms, stride, dq);
    using OfKeys = KeyTiling<kWidth>;
    const dim3 grid = attention_grid(p.keys, OfKeys::kRows, p.kv_heads, p.sequences);
    const auto launch_dkv = [&](auto* kernel) {
      launch("attention_dkv", stream, grid, kThreadsOfBlock, OfKeys::kSharedBytes, kernel, p, packed, padding,
             terms, stride, dk, dv);
    };
    if constexpr (kWidth <= 128) {
      launch_dkv(attention_dkv_mma_kernel<kWidth, true, true>);
    } else {
      launch_dkv(attention_dkv_mma_kernel<kWidth, true, false>);
      launch_dkv(attention_dkv_mma_kernel<kWidth, false, true>);
    }
  });
}

}  // namespace conclave::cuda::mma
