// The dense feed-forward layer: y = swiglu(x Wgate_up^T) Wdown^T.
#pragma once

#include <string>
#include <vector>

#include "layers/module.h"

namespace conclave {

// Parameters name + ".gate_up" [2F, D] (rows [0, F) are the gate) and name + ".down" [D, F].
class FeedForward : public Module {
 public:
  // gate_up ~ N(0, init_std^2), down ~ N(0, output_init_std^2).
  FeedForward(std::string name, std::int64_t d_model, std::int64_t d_ff, double init_std,
              double output_init_std, std::uint64_t seed);

  TensorView forward(Context& ctx, ConstTensorView x) override;
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;

 private:
  Parameter gate_up_;
  Parameter down_;
  // Of the last forward in training.
  ConstTensorView x_;              // [T, D]
  ConstTensorView preactivation_;  // [T, 2F]
  ConstTensorView h_;              // [T, F]
};

}  // namespace conclave
