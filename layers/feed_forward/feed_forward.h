// The dense feed-forward layer: y = hidden(x Win^T) Wdown^T, with the activation of hidden_layer.h.
#pragma once

#include <string>
#include <vector>

#include "layers/feed_forward/hidden_layer.h"
#include "layers/linear/linear_weight.h"
#include "layers/module.h"

namespace conclave {

// Parameters name + ".gate_up" [2F, D] (rows [0, F) are the gate) with swiglu, else name + ".up" [F, D]; and
// name + ".down" [D, F].
class FeedForward : public Module {
 public:
  // gate_up or up ~ N(0, init_std^2), down ~ N(0, output_init_std^2).
  FeedForward(std::string name, std::int64_t d_model, std::int64_t d_ff, double init_std,
              double output_init_std, std::uint64_t seed, config::Activation activation = config::swiglu);

  TensorView forward(Context& ctx, ConstTensorView x) override;
  TensorView backward(Context& ctx, ConstTensorView dy) override;
  void collect_parameters(std::vector<Parameter*>& parameters) override;
  // Brings the copies of the weights on the GPU of ctx up to date, before forward does.
  void renew_copies(Context& ctx);

 private:
  config::Activation activation_;
  Parameter input_;
  Parameter down_;
  LinearWeight input_weight_;
  LinearWeight down_weight_;
  // Of the last forward in training.
  ConstTensorView x_;              // [T, D]
  ConstTensorView preactivation_;  // [T, P F], P = input_projections(activation_)
  ConstTensorView h_;              // [T, F]
};

}  // namespace conclave
