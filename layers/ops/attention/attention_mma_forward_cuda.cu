#include "layers/ops/attention/attention_mma.cuh"

namespace conclave::cuda::mma {
namespace {

template <int kWidth>
struct Tiling {
  // As many rows of a warp, and keys, as registers hold without spills: more rows share what is read of k and
  // v, more keys the shrinking of results.
  static constexpr int kRowTiles = kWidth <= 128 ? 2 : 1;
  static constexpr int kQueriesOfWarp = 16 * kRowTiles;
  static constexpr int kQueries = kWarpsOfBlock * kQueriesOfWarp;
  static constexpr int kKeys = kWidth == 128 ? 32 : 64;
  static constexpr std::size_t kSharedBytes = Tile<kWidth>::bytes(kQueries + 2 * kKeys);
};

// The softmax of a warp's queries so far, of which a lane has the rows row_of_sum(0) and row_of_sum(2) of
// each 16.
template <int kRowTiles>
struct OnlineSoftmax {
  float maximum[kRowTiles][2];  // of the scores
  float sum[kRowTiles][2];      // of e^(scale (score - maximum)), over this lane's columns

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      maximum[r][0] = maximum[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0;
    }
  }

  // Replaces scores by their weights, e^(scale (score - maximum)), and shrinks `result`, which was made with
  // the maximum of before. `log2_scale`: scale log2(e).
  template <int kKeyTiles, int kResultTiles>
  __device__ void absorb(float (&scores)[kRowTiles][kKeyTiles][4], float log2_scale,
                         float (&result)[kRowTiles][kResultTiles][4]) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float new_maximum = maximum[r][half];
#pragma unroll
        for (int c = 0; c < kKeyTiles; ++c) {
          new_maximum = fmaxf(new_maximum, fmaxf(scores[r][c][2 * half], scores[r][c][2 * half + 1]));
        }
        new_maximum = max_of_row(new_maximum);
        // Nothing seen yet: weights of 0, not e^(inf - inf).
        const float seen = new_maximum == -INFINITY ? 0.0F : new_maximum;
        const float shift = seen * log2_scale;
        // Exactly 1 while the maximum stays, which maximum * log2_scale - shift as a multiply-add isn't.
        const float shrink = power_of_two((maximum[r][half] - seen) * log2_scale);
        float sum_of_tile = 0;
#pragma unroll
        for (int c = 0; c < kKeyTiles; ++c) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            scores[r][c][i] = power_of_two(scores[r][c][i] * log2_scale - shift);
            sum_of_tile += scores[r][c][i];
          }
        }
        maximum[r][half] = new_maximum;
        sum[r][half] = sum[r][half] * shrink + sum_of_tile;
#pragma unroll
        for (int c = 0; c < kResultTiles; ++c) {
          result[r][c][2 * half] *= shrink;
          result[r][c][2 * half + 1] *= shrink;
        }
      }
    }
  }
};

// Two barriers a tile of keys: v is copied while scores are computed, the next k while they are used.
template <int kWidth>
__global__ void __launch_bounds__(kThreadsOfBlock)
    attention_forward_mma_kernel(AttentionProblem p, PackedHeads packed, const std::uint8_t* padding,
                                 float* y, float* log_sum_exp) {
  using Of = Tiling<kWidth>;
  const Tile<kWidth> q_tile{reinterpret_cast<Bf16*>(shared_memory())};
  const Tile<kWidth> k_tile = q_tile.from(Of::kQueries);
  const Tile<kWidth> v_tile = k_tile.from(Of::kKeys);

  const QueryBlock block = query_block(p, padding, Of::kQueries);
  const Rows<const Bf16> q = rows_of<const Bf16>(packed.q, block.first_token, block.head, p.heads, kWidth);
  const Rows<const Bf16> k =
      rows_of<const Bf16>(packed.k, block.first_key_token, block.kv_head, p.kv_heads, kWidth);
  const Rows<const Bf16> v =
      rows_of<const Bf16>(packed.v, block.first_key_token, block.kv_head, p.kv_heads, kWidth);
  const int first_row = warp() * Of::kQueriesOfWarp;
  const int first_query = block.first_query + first_row;  // of the warp
  const float scale = scale_of_scores(p);

  fill<Of::kQueries>(q_tile, q, block.first_query, queries_of(p));
  fill<Of::kKeys>(k_tile, k, 0, keys_of(p));
  commit_copies();
  float result[Of::kRowTiles][kWidth / 8][4] = {};
  OnlineSoftmax<Of::kRowTiles> softmax;
  const int end = keys_seen(p, block.first_query + Of::kQueries - 1);
  for (int first_key = 0; first_key < end; first_key += Of::kKeys) {
    wait_for_copies<0>();
    __syncthreads();  // k is there, the v of before is read
    fill<Of::kKeys>(v_tile, v, first_key, keys_of(p));
    commit_copies();
    float scores[Of::kRowTiles][Of::kKeys / 8][4] = {};
    multiply_by_transposed(scores, q_tile, first_row, k_tile, 0);
    const int last_key = first_key + Of::kKeys - 1;
    if (block.padding != nullptr || last_key >= keys_seen(p, first_query)) {
      hide_invisible(scores, p, block.padding, first_query, first_key);
    }
    wait_for_copies<0>();
    __syncthreads();  // v is there, k is read
    if (first_key + Of::kKeys < end) fill<Of::kKeys>(k_tile, k, first_key + Of::kKeys, keys_of(p));
    commit_copies();
    softmax.absorb(scores, scale * kLog2E, result);
    multiply(result, as_left(scores), v_tile, 0);
  }

#pragma unroll
  for (int r = 0; r < Of::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool sees_nothing = softmax.maximum[r][half] == -INFINITY;
      const float sum = sum_of_row(softmax.sum[r][half]);
      const float factor = sees_nothing ? 0.0F : 1.0F / sum;
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        result[r][c][2 * half] *= factor;
        result[r][c][2 * half + 1] *= factor;
      }
      const int query = first_query + 16 * r + row_of_sum(2 * half);
      if (log_sum_exp != nullptr && query < queries_of(p) && lane() % kLanesOfRow == 0) {
        log_sum_exp[(block.first_token + query) * p.heads + block.head] =
            sees_nothing ? 0.0F : scale * softmax.maximum[r][half] + logf(sum);
      }
    }
  }
  store(result, rows_of(y, block.first_token, block.head, p.heads, p.head_dim), first_query, queries_of(p),
        static_cast<int>(p.head_dim));
}

}  // namespace

std::int64_t attention_forward_scratch_bytes(const AttentionProblem& p) { return packed_bytes(p, false); }

void attention_forward(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                       const float* v, const std::uint8_t* padding, float* y, float* log_sum_exp,
                       void* scratch) {
  const PackedHeads packed = pack(stream, p, q, k, v, nullptr, scratch);
  with_width(p.head_dim, [&]<class W>(W) {
    using Of = Tiling<W::value>;
    launch("attention_forward", stream, attention_grid(p.queries, Of::kQueries, p.heads, p.sequences),
           kThreadsOfBlock, Of::kSharedBytes, attention_forward_mma_kernel<W::value>, p, packed, padding, y,
           log_sum_exp);
  });
}

}  // namespace conclave::cuda::mma
