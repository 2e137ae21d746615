#include "layers/ops/attention/attention_mma.cuh"

namespace conclave::cuda::mma {
namespace {

constexpr int kPiece = 8;  // elements that a thread packs: 16 bytes

struct Tensor {
  const float* from;  // [rows, head_dim]
  Bf16* to;           // [rows, width]
  std::int64_t rows;
  bool is_aligned;  // rows of `from` are, to 16 bytes
};

struct alignas(16) Piece {
  unsigned pairs[kPiece / 2];
};

// blockIdx.y: which tensor.
__global__ void attention_pack_kernel(Tensor q, Tensor k, Tensor v, Tensor dy, int head_dim, int width) {
  const Tensor tensor = blockIdx.y == 0 ? q : blockIdx.y == 1 ? k : blockIdx.y == 2 ? v : dy;
  const int pieces = width / kPiece;
  const std::int64_t row = global_thread() / pieces;
  if (row >= tensor.rows) return;
  const int first = static_cast<int>(global_thread() % pieces) * kPiece;
  const float* from = tensor.from + row * head_dim;
  float values[kPiece] = {};
  if (tensor.is_aligned) {
#pragma unroll
    for (int i = 0; i < kPiece; i += 4) {
      if (first + i >= head_dim) continue;
      const float4 four = *reinterpret_cast<const float4*>(from + first + i);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      if (first + i < head_dim) values[i] = from[first + i];
    }
  }
  Piece packed;
#pragma unroll
  for (int i = 0; i < kPiece; i += 2) packed.pairs[i / 2] = pack_bf16(values[i], values[i + 1]);
  *reinterpret_cast<Piece*>(tensor.to + row * width + first) = packed;
}

std::int64_t width_of(std::int64_t head_dim) {
  std::int64_t width = 0;
  with_width(head_dim, [&]<class W>(W) { width = W::value; });
  return width;
}
std::int64_t query_rows(const AttentionProblem& p) { return p.sequences * p.queries * p.heads; }
std::int64_t key_rows(const AttentionProblem& p) { return p.sequences * p.keys * p.kv_heads; }

}  // namespace

std::int64_t packed_bytes(const AttentionProblem& p, bool with_dy) {
  const std::int64_t rows = query_rows(p) * (with_dy ? 2 : 1) + 2 * key_rows(p);
  return rows * width_of(p.head_dim) * static_cast<std::int64_t>(sizeof(Bf16));
}

PackedHeads pack(StreamHandle stream, const AttentionProblem& p, const float* q, const float* k,
                 const float* v, const float* dy, void* scratch) {
  const std::int64_t width = width_of(p.head_dim);
  const std::int64_t queries = query_rows(p);
  const std::int64_t keys = key_rows(p);
  Bf16* to_q = static_cast<Bf16*>(scratch);
  Bf16* to_k = to_q + queries * width;
  Bf16* to_v = to_k + keys * width;
  Bf16* to_dy = to_v + keys * width;
  const auto tensor = [&](const float* from, Bf16* to, std::int64_t rows) {
    return Tensor{from, to, rows,
                  p.head_dim % 4 == 0 && reinterpret_cast<std::uintptr_t>(from) % sizeof(float4) == 0};
  };
  dim3 grid = blocks_for((queries > keys ? queries : keys) * (width / kPiece));
  grid.y = dy == nullptr ? 3 : 4;
  launch("attention_pack", stream, grid, kThreads, 0, attention_pack_kernel, tensor(q, to_q, queries),
         tensor(k, to_k, keys), tensor(v, to_v, keys), tensor(dy, to_dy, queries),
         static_cast<int>(p.head_dim), static_cast<int>(width));
  return {to_q, to_k, to_v, to_dy};
}

}  // namespace conclave::cuda::mma
