// AdamW: Adam with decoupled weight decay and bias correction (Loshchilov and Hutter, "Decoupled weight decay
// regularization", ICLR 2019, algorithm 2).
#pragma once

#include <cstdint>
#include <vector>

#include "configs/run.pb.h"
#include "optim/optimizer.h"
#include "optim/ownership.h"

namespace conclave {

// Update t = 1, 2, ... of an element p with gradient g (already times gradient_scale), all in fp32:
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)
// and what follows the value (ValueFollower) follows it in the same pass over memory. weight_decay is 0 where
// !parameter.decays. Experts (Sharding::kExpert) take lr * expert_lr_multiplier and expert_weight_decay.
// On a GPU nobody follows: copies are made by who needs them. Frozen rows keep their values and their
// moments. State: "adamw.m/<parameter>", "adamw.v/<parameter>", as the matrices [M, N] of ownership.h, of the
// rows that this rank owns.
class AdamW final : public Optimizer {
 public:
  // `ownership` must outlive the optimizer.
  AdamW(const config::Optim& options, const Ownership& ownership);

  void update(double learning_rate, double gradient_scale) override;
  std::int64_t updates() const override { return updates_; }
  void set_updates(std::int64_t updates) override { updates_ = updates; }
  std::vector<ShardedTensor> state() override;

 private:
  // What the update of every element of a tensor has in common.
  struct Coefficients;
  // What the parameters of a group have in common.
  struct Group {
    double lr_multiplier;
    double weight_decay;
  };
  struct Slot {
    const OwnedParameter* owned;
    Buffer first_moment;   // [rows owned, N]
    Buffer second_moment;  // [rows owned, N]
  };

  // Followers of the parameter that take part in its coming update.
  void begin_update(const Parameter& parameter);
  // Update t of the parameters of a group.
  Coefficients coefficients_of(const Group& group, bool decays, double learning_rate,
                               double gradient_scale) const;
  const Group& group_of(const Parameter& parameter) const {
    return parameter.sharding() == Sharding::kExpert ? experts_ : dense_;
  }
  void update_on_gpu(double learning_rate, double gradient_scale);
  // Pieces of all that this rank trains, for the one launch of an update.
  void lay_out_pieces();
  void update_rows(const Slot& slot, Range rows, const Coefficients& coefficients, TensorView value);

  bool sharded_;
  cuda::Engine* gpu_;  // null: on the host
  std::vector<Slot> slots_;
  std::vector<ValueFollower*> following_;
  double beta1_;
  double beta2_;
  double eps_;
  Group dense_;
  Group experts_;
  std::int64_t updates_ = 0;
  Buffer pieces_;  // cuda::AdamWPiece [pieces_count_], on the GPU
  std::int64_t pieces_count_ = 0;
};

}  // namespace conclave
