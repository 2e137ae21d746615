// The stacked experts of this rank: y = W_down h for the expert that the row belongs to, with
//   h = silu(W_gate x) * (W_up x)   swiglu (Shazeer, "GLU variants improve transformer", 2020)
//   h = activation(W_up x)          gelu, relu
// In training h may pass a dropout (Switch Transformers, Fedus et al. 2021), whose mask is a function of the
// seed, the name, the step, the token and the expert: the same in every layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/context.h"
#include "layers/feed_forward/hidden_layer.h"
#include "layers/linear/linear_weight.h"
#include "layers/parameter.h"

namespace conclave {

struct ExpertsOptions {
  std::int64_t experts = 0;       // E, of all ranks
  Range local_experts;            // the global ids on this rank
  std::int64_t d_model = 0;       // D
  std::int64_t d_ff = 0;          // F
  std::uint64_t seed = 0;         // of the initial weights
  double init_std = 0.02;         // of gate and up
  double output_init_std = 0.02;  // of down, the projection into the residual stream
  std::int64_t d_output = 0;      // width of what comes out; 0: D
  config::Activation activation = config::swiglu;
  double dropout = 0;      // of hidden elements, in training
  bool recompute = false;  // backward computes the hidden layer again from the rows (train.recompute)
};

class Experts {
 public:
  // Parameters name + ".gate_up" [E, 2F, D] (gate first) with swiglu, else name + ".up" [E, F, D]; and
  // name + ".down" [E, D_out, F]. Sharded by expert.
  Experts(const std::string& name, const ExpertsOptions& options);

  // rows [R, D] ordered by local expert, int64 offsets [local experts + 1] -> [R, D_out] in ctx.arena. Rows
  // of an expert, or all, may be none. With ctx.training rows must stay valid until backward, and so must
  // offsets in the memory of a GPU, which may end before R. `tokens` int64 [R, 1]: the number of each row's
  // token in the global batch; needed where drops_out(), and must then stay valid too.
  //
  // Rows may come in several parts, each ordered by local expert: offsets [parts * local experts + 1], on the
  // host. Each
  // part is computed as if it were alone, to the last bit, whatever the others hold.
  //
  // The rows of a micro-batch may also come in several passes, each of which has the rows of some experts and
  // none of the others (exchange.h): pass 0, 1, ..., and backward in the same order.
  TensorView forward(Context& ctx, ConstTensorView rows, ConstTensorView offsets, ConstTensorView tokens = {},
                     std::int64_t pass = 0);

  // dy [R, D_out] -> drows [R, D] in ctx.arena; adds to the gradients of the parameters. With several parts
  // the gradients of all but the last are folded (Parameter::fold_gradient), so that sums over parts don't
  // depend on which rank adds them up.
  TensorView backward(Context& ctx, ConstTensorView dy, std::int64_t pass = 0);

  void collect_parameters(std::vector<Parameter*>& parameters);
  // Brings the copies of the weights on the GPU of ctx up to date, before forward does.
  void renew_copies(Context& ctx);

  // True where the coming forward drops hidden elements.
  bool drops_out(const Context& ctx) const { return ctx.training && dropout_ > 0; }

 private:
  // One part of the rows; its offsets start at 0.
  struct Part {
    Range rows;
    std::vector<std::int64_t> offsets_on_host;  // [local experts + 1]
    ConstTensorView offsets_on_gpu;             // in place of them

    ConstTensorView offsets() const {
      return offsets_on_gpu.raw() != nullptr ? offsets_on_gpu : ConstTensorView(offsets_on_host);
    }

    ConstTensorView of(ConstTensorView all) const { return all.rows(rows.begin, rows.end); }
    TensorView of(TensorView all) const { return all.rows(rows.begin, rows.end); }
  };

  // What backward needs of a forward.
  struct Pass {
    ConstTensorView rows;  // [R, D]
    std::vector<Part> parts;
    ConstTensorView tokens;    // int64 [R, 1], with dropout
    TensorView preactivation;  // [R, P F], P = input_projections(activation_)
    TensorView hidden;         // [R, F]
    TensorView kept;           // uint8 [R, F], with dropout
  };

  // Offsets as forward takes them -> parts; their memory is used again.
  void cut(ConstTensorView offsets, std::int64_t rows, std::vector<Part>& parts) const;
  // Rows and parts of a pass -> its preactivation and hidden layer, in ctx.arena.
  void compute_hidden(Context& ctx, Pass& pass);
  void drop_out(Context& ctx, Pass& pass);
  // The rows' first blocks of random numbers, int64 [R], of a part.
  void number_blocks(Context& ctx, const Part& part, ConstTensorView tokens, TensorView first_block) const;

  std::int64_t d_ff_;
  config::Activation activation_;
  float dropout_;
  bool recompute_;
  std::uint64_t seed_;
  std::string name_;
  Range local_experts_;
  Parameter input_;
  Parameter down_;
  LinearWeight input_weight_;
  LinearWeight down_weight_;
  std::vector<Pass> passes_;
};

}  // namespace conclave
