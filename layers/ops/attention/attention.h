// Scaled dot-product attention with grouped key/value heads (Vaswani et al. 2017; Ainslie et al.
// 2023), computed in cache-sized blocks with an online softmax, so that the S x S scores never exist
// (Dao, "FlashAttention-2", 2023).
//
// Query head h of position t, of group g = h / (H / Hkv):
//   y[t, h] = sum_j p[j] v[j, g],   p = softmax over the visible j of q[t, h] . k[j, g] / sqrt(head_dim)
// where j runs over t's own sequence, only up to t itself if causal, and never over padding. A query that
// sees no key at all gets y = 0 and passes no gradient on.
#pragma once

#include <cstdint>

#include "layers/context.h"

namespace conclave {

struct AttentionShape {
  std::int64_t heads = 0;     // H
  std::int64_t kv_heads = 0;  // Hkv, a divisor of H
  std::int64_t head_dim = 0;  // hd

  std::int64_t query_width() const { return heads * head_dim; }
  std::int64_t kv_width() const { return kv_heads * head_dim; }
};

struct AttentionForwardArgs {
  AttentionShape shape;
  std::int64_t sequence_length = 0;  // S; T is a multiple of it
  bool causal = true;
  ConstTensorView padding;  // uint8 [T], 1 for tokens that are no key to anyone; empty: there are none
  ConstTensorView q;        // [T, H hd]
  ConstTensorView k;        // [T, Hkv hd]
  ConstTensorView v;        // [T, Hkv hd]
  TensorView y;             // [T, H hd] (=)
  TensorView log_sum_exp;   // [T, H] (=) log of the softmax's denominator: what backward recomputes p from
};

struct AttentionBackwardArgs {
  AttentionShape shape;
  std::int64_t sequence_length = 0;  // S
  bool causal = true;
  ConstTensorView padding;      // as forward had it
  ConstTensorView q;            // [T, H hd]
  ConstTensorView k;            // [T, Hkv hd]
  ConstTensorView v;            // [T, Hkv hd]
  ConstTensorView y;            // [T, H hd] as forward wrote it
  ConstTensorView log_sum_exp;  // [T, H] as forward wrote it
  ConstTensorView dy;           // [T, H hd]
  TensorView dq;                // [T, H hd] (=); the results overlap nothing
  TensorView dk;                // [T, Hkv hd] (=)
  TensorView dv;                // [T, Hkv hd] (=)
};

// The last N of L positions of one sequence against the keys and values of all L, their own included: new
// position n sees the keys 0 .. L - N + n.
struct AttentionDecodeArgs {
  AttentionShape shape;
  ConstTensorView q;  // [N, H hd]
  ConstTensorView k;  // [L, Hkv hd], N <= L
  ConstTensorView v;  // [L, Hkv hd]
  TensorView y;       // [N, H hd] (=)
};

// All fp32; with ctx.compute bf16 the factors of the products (q, k, v, p and the gradients) are rounded to
// bf16, sums and the softmax stay fp32. T and N may be zero. Scratch comes from ctx.arena and is given back.
// Results don't depend on the number of threads. Throws Error for shapes that do not fit.
void attention_forward(Context& ctx, const AttentionForwardArgs& args);
void attention_backward(Context& ctx, const AttentionBackwardArgs& args);
void attention_decode(Context& ctx, const AttentionDecodeArgs& args);

namespace cpu {  // arguments already checked
void attention_forward(Context& ctx, const AttentionForwardArgs& args);
void attention_backward(Context& ctx, const AttentionBackwardArgs& args);
void attention_decode(Context& ctx, const AttentionDecodeArgs& args);
}  // namespace cpu

}  // namespace conclave
