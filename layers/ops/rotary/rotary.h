// Rotary position embedding (Su et al., "RoFormer", 2021) in the rotate-half convention of the GPT-NeoX,
// Llama and Hugging Face models: element i of a head is paired with element i + head_dim/2.
//
//   angle(p, i) = p theta^(-2 i / head_dim),  i < head_dim/2
//   (x_i, x_{i + head_dim/2}) is turned by angle(p, i) at position p
#pragma once

#include <optional>

#include "layers/context.h"

namespace conclave {

// Cosines and sines of all positions, computed once in double precision.
class RotaryTable {
 public:
  // Throws Error for an odd head_dim.
  RotaryTable(std::int64_t max_seq, std::int64_t head_dim, double theta);

  std::int64_t max_seq() const { return cosines_.view().extent(0); }
  std::int64_t head_dim() const { return 2 * cosines_.view().extent(1); }
  ConstTensorView cosines() const { return cosines_.view(); }  // fp32 [max_seq, head_dim/2]
  ConstTensorView sines() const { return sines_.view(); }      // fp32 [max_seq, head_dim/2]
  // The same where ctx computes: copied there once.
  ConstTensorView cosines(const Context& ctx) const { return ctx.on_gpu() ? on_gpu(ctx).cosines : cosines(); }
  ConstTensorView sines(const Context& ctx) const { return ctx.on_gpu() ? on_gpu(ctx).sines : sines(); }

 private:
  struct Views {
    ConstTensorView cosines;
    ConstTensorView sines;
  };
  Views on_gpu(const Context& ctx) const;

  Buffer cosines_;
  Buffer sines_;
  struct Copy {
    Buffer cosines;
    Buffer sines;
  };
  mutable std::optional<Copy> on_gpu_;
};

struct RotaryArgs {
  TensorView x;  // fp32 [T, H, head_dim], turned in place: queries, keys or their gradients
  const RotaryTable* table = nullptr;  // not null
  std::int64_t sequence_length = 0;    // S; row t stands at position first_position + t % S
  std::int64_t first_position = 0;     // of each sequence's first row; above 0 when decoding from a cache
};

// Throws Error if the shape does not fit the table, S does not divide T, or a position is not in the table.
void rotary(Context& ctx, const RotaryArgs& args);
// The transposed, which is the inverse, rotation: args.x holds the gradient of rotary's result and becomes
// the gradient of its input.
void rotary_backward(Context& ctx, const RotaryArgs& args);

namespace cpu {
// direction is +1 (forward) or -1 (backward).
void rotary(const RotaryArgs& args, float direction);
}  // namespace cpu

}  // namespace conclave
