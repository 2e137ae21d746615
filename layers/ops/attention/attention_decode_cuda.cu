// Attention of a few new positions over many keys, in fp32: reading the keys and values is all that it costs.
//
// A block has one head of one query. Eight neighbouring lanes share a key at a time, so that a block walks
// over 32 of them side by side, each with an online softmax of its own; in the end those are put together.
#include "layers/cuda/launch.cuh"
#include "layers/cuda/shared_memory.cuh"
#include "layers/cuda/vectors.cuh"
#include "layers/ops/attention/attention_blocks.cuh"

namespace conclave::cuda {
namespace {

constexpr int kLanesOfKey = 8;
constexpr int kThreadsOfHead = 256;
constexpr int kKeysAtOnce = kThreadsOfHead / kLanesOfKey;

__device__ int lane_of_key() { return static_cast<int>(threadIdx.x) % kLanesOfKey; }
__device__ int place_of_key() { return static_cast<int>(threadIdx.x) / kLanesOfKey; }

// A lane's elements of a head, zeros beyond it: pieces of kAtOnce neighbours, lane by lane.
template <int kPieces, int kAtOnce>
struct HeadElements {
  float of[kPieces][kAtOnce] = {};

  __device__ static int first(int piece) { return (piece * kLanesOfKey + lane_of_key()) * kAtOnce; }
  __device__ void read(const float* head, int head_dim) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (first(piece) < head_dim) load(of[piece], head + first(piece));
    }
  }
};

template <int kPieces, int kAtOnce>
__global__ void __launch_bounds__(kThreadsOfHead)
    attention_decode_kernel(AttentionProblem p, const float* all_q, const float* all_k, const float* all_v,
                            float* all_y) {
  using OfLane = HeadElements<kPieces, kAtOnce>;
  const int head_dim = static_cast<int>(p.head_dim);
  float* maxima = shared_memory();      // [kKeysAtOnce]
  float* sums = maxima + kKeysAtOnce;   // [kKeysAtOnce]
  float* results = sums + kKeysAtOnce;  // [kKeysAtOnce, head_dim]

  const int query = static_cast<int>(blockIdx.x);
  const std::int64_t head = blockIdx.y;
  const std::int64_t kv_head = head / (p.heads / p.kv_heads);
  const Rows<const float> k = rows_of(all_k, 0, kv_head, p.kv_heads, p.head_dim);
  const Rows<const float> v = rows_of(all_v, 0, kv_head, p.kv_heads, p.head_dim);
  const float scale = scale_of_scores(p);
  OfLane q;
  q.read(rows_of(all_q, 0, head, p.heads, p.head_dim).at(query), head_dim);

  float maximum = -INFINITY;
  float sum = 0;
  OfLane result;
  const int end = keys_seen(p, query);
  for (int first = 0; first < end; first += kKeysAtOnce) {
    const int key = first + place_of_key();
    OfLane own_k;
    if (key < end) own_k.read(k.at(key), head_dim);
    float dot = 0;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) dot += q.of[piece][i] * own_k.of[piece][i];
    }
#pragma unroll
    for (int distance = 1; distance < kLanesOfKey; distance *= 2)
      dot += __shfl_xor_sync(kAllLanes, dot, distance);
    if (key >= end) continue;
    const float score = dot * scale;
    const float new_maximum = fmaxf(maximum, score);
    const float shrink = expf(maximum - new_maximum);  // at first 0
    const float weight = expf(score - new_maximum);
    maximum = new_maximum;
    sum = sum * shrink + weight;
    OfLane own_v;
    own_v.read(v.at(key), head_dim);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        result.of[piece][i] = result.of[piece][i] * shrink + weight * own_v.of[piece][i];
    }
  }

  if (lane_of_key() == 0) {
    maxima[place_of_key()] = maximum;
    sums[place_of_key()] = sum;
  }
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    if (OfLane::first(piece) >= head_dim) break;
    store(results + place_of_key() * head_dim + OfLane::first(piece), result.of[piece]);
  }
  __syncthreads();
  float largest = -INFINITY;  // every query sees a key
  for (int place = 0; place < kKeysAtOnce; ++place) largest = fmaxf(largest, maxima[place]);
  float* y = rows_of(all_y, 0, head, p.heads, p.head_dim).at(query);
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += kThreadsOfHead) {
    float all_sum = 0;
    float all_result = 0;
    for (int place = 0; place < kKeysAtOnce; ++place) {
      const float share = expf(maxima[place] - largest);  // 0 where no key was
      all_sum += share * sums[place];
      all_result += share * results[place * head_dim + d];
    }
    y[d] = all_result / all_sum;
  }
}

// Calls function(the elements of a head that a lane may have).
template <class Function>
void with_elements_of_lane(std::int64_t head_dim, Function function) {
  if (head_dim <= 64) {
    function(Count<64 / kLanesOfKey>());
  } else if (head_dim <= 128) {
    function(Count<128 / kLanesOfKey>());
  } else {
    function(Count<kMaxHeadDim / kLanesOfKey>());
  }
}

}  // namespace

void attention_decode(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                      const float* v, float* y) {
  if (p.queries == 0) return;
  const dim3 grid(static_cast<unsigned>(p.queries), static_cast<unsigned>(p.heads));
  const std::size_t shared_bytes = sizeof(float) * static_cast<std::size_t>(kKeysAtOnce * (2 + p.head_dim));
  with_elements_of_lane(p.head_dim, [&]<class Held>(Held) {
    with_vectors<4>(
        p.head_dim,
        [&]<class AtOnce>(AtOnce) {
          launch("attention_decode", stream, grid, kThreadsOfHead, shared_bytes,
                 attention_decode_kernel<Held::value / AtOnce::value, AtOnce::value>, p, q, k, v, y);
        },
        q, k, v, y);
  });
}

}  // namespace conclave::cuda
