// The attention module of a block: self-attention, causal unless model.causal is false, with grouped
// key/value heads, rotary positions and, by option, an RMSNorm over queries and keys before the rotation
// (QK-norm, Henry et al. 2020): over each head (Qwen3) or over all heads at once (OLMoE).
//
//   q, k, v = x Wq^T, x Wk^T, x Wv^T      (rows of one matrix `qkv`)
//   q, k    = rotary(norm(q)), rotary(norm(k))
//   y       = attention(q, k, v) Wout^T
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "configs/run.pb.h"
#include "layers/attention/kv_cache.h"
#include "layers/linear/linear_weight.h"
#include "layers/module.h"
#include "layers/ops/attention/attention.h"
#include "layers/ops/rotary/rotary.h"

namespace conclave {

class Attention : public Module {
 public:
  // Parameters, all replicated:
  //   <name>.qkv [(H + 2 Hkv) hd, D]  N(0, init_std): rows of H query, then Hkv key, then Hkv value heads
  //   <name>.out [D, H hd]            N(0, output_init_std)
  //   <name>.q_norm, <name>.k_norm [hd]  ones, no weight decay; only with model.qk_norm. With
  //                                      model.qk_norm_over: width [H hd] and [Hkv hd]
  // model.kv_heads and model.head_dim must be resolved (configs/resolve.h). Throws Error for
  // heads that don't fit.
  Attention(const config::Model& model, const std::string& name, double init_std, double output_init_std,
            std::uint64_t seed);

  // x [T, D] -> [T, D], T = ctx.batch.tokens(); tokens of ctx.padding are seen by none. Throws Error for
  // other shapes and sequences beyond model.max_seq.
  TensorView forward(Context& ctx, ConstTensorView x) override;
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;

  // Generation: x [N, D] are the next N positions of the one sequence whose past is in `cache`; their keys
  // and values are appended to it. Returns [N, D]. Keeps nothing for backward. Throws Error when the cache is
  // full, model.max_seq is passed or the model isn't causal: its past would change with every token.
  TensorView forward_cached(Context& ctx, ConstTensorView x, KvCache& cache);
  // An empty cache of the right width.
  KvCache make_cache(std::int64_t capacity, Device device = {}) const {
    return {capacity, shape_.kv_width(), device};
  }

 private:
  // Queries or keys of T tokens and what their way backward needs.
  struct Heads {
    TensorView
        projected;    // [T, heads hd] before norm and rotation; the same memory as `rotated` without QK-norm
    TensorView rstd;  // [T heads] of the norm, [T] over the width; empty without QK-norm
    TensorView rotated;  // [T, heads hd]
  };
  struct Projected {
    Heads q;
    Heads k;
    TensorView v;  // [T, Hkv hd]
  };
  struct Saved {
    ConstTensorView x;  // [T, D]
    Projected projected;
    TensorView attended;     // [T, H hd]
    TensorView log_sum_exp;  // [T, H]
  };

  Projected project(Context& ctx, ConstTensorView x, std::int64_t sequence_length,
                    std::int64_t first_position);
  static TensorView project(Context& ctx, ConstTensorView x, LinearWeight& weight);
  Heads normalise_and_rotate(Context& ctx, TensorView projected, const std::optional<Parameter>& norm,
                             std::int64_t sequence_length, std::int64_t first_position);
  void backward_heads(Context& ctx, TensorView dheads, const Heads& heads, std::optional<Parameter>& norm);

  AttentionShape shape_;
  bool causal_;
  std::int64_t d_model_;
  float norm_eps_;
  RotaryTable rotary_table_;
  Parameter qkv_;
  Parameter out_;
  LinearWeight query_weight_;
  LinearWeight key_weight_;
  LinearWeight value_weight_;
  LinearWeight out_weight_;
  std::optional<Parameter> q_norm_;
  std::optional<Parameter> k_norm_;
  std::optional<Saved> saved_;
};

}  // namespace conclave
