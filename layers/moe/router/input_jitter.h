// Multiplicative noise on what a router sees (Fedus et al., "Switch Transformers", 2021, section 2.4).
//
//   x'[t, d] = x[t, d] * (1 - jitter + 2 * jitter * u[t, d]),  u uniform in [0, 1)
//
// in training, where moe.jitter > 0. Experts get x itself. u is a function of (run.seed, router, step, number
// of the token in the run, d): the same in every layout and however a step is cut into micro-batches.
#pragma once

#include <cstdint>
#include <string>

#include "configs/run.pb.h"
#include "layers/context.h"

namespace conclave {

class InputJitter {
 public:
  // `router` is the global name of the router ("layers.3.moe.router").
  InputJitter(const config::Experiment& experiment, const std::string& router);

  // x [T, D] -> x' [T, D] in ctx.arena, T = ctx.batch.tokens(). Without noise it is x itself.
  ConstTensorView forward(Context& ctx, ConstTensorView x) const;

  // dx' [T, D] of the micro-batch at ctx.batch becomes dx, in place.
  void backward(Context& ctx, TensorView dx) const;

 private:
  // to = from * (1 + noise) of the micro-batch at ctx.batch; they may be the same memory.
  void scale(const Context& ctx, ConstTensorView from, TensorView to) const;

  std::string name_;
  std::uint64_t seed_;
  float jitter_;
};

}  // namespace conclave
