// SEAM 4: how parameters move once their gradients are complete.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/parameter.h"

namespace conclave {

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One update of every parameter from its (reduced) gradient times gradient_scale (the clipping factor).
  // Each rank updates what it holds; no communication.
  virtual void update(double learning_rate, double gradient_scale) = 0;

  // The number of updates so far (bias correction counts them); set when a checkpoint is loaded.
  virtual std::int64_t updates() const = 0;
  virtual void set_updates(std::int64_t updates) = 0;

  // Every tensor of the optimizer's state under its global name, for checkpoints.
  virtual std::vector<ShardedTensor> state() = 0;
};

}  // namespace conclave
