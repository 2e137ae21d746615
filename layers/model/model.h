// SEAM: what the trainer trains. It owns its parameters, computes a loss and its gradients, and knows nothing
// of data, optimizers or runs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/process_grid.h"
#include "configs/run.pb.h"
#include "layers/context.h"
#include "layers/moe/routed_layer.h"
#include "layers/parameter.h"
#include "layers/tensor/deferred_sum.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

// Sums over this rank's targets.
struct ModelLoss {
  DeferredSum loss_sum;  // nats, without balance terms
  std::int64_t targets = 0;
  // Of regressions, else 0: of the model's mean, and of its most probable expert alone.
  double squared_error_sum = 0;
  double best_squared_error_sum = 0;
};

class Model {
 public:
  virtual ~Model() = default;

  // One micro-batch of ctx.batch.sequences samples (which may be 0: models communicate); what `inputs` and
  // `targets` are the model says. In training the loss that is differentiated is
  // loss_sum / ctx.batch.loss_targets() plus the balance terms. Collective over ctx.grid.
  virtual ModelLoss forward(Context& ctx, ConstTensorView inputs, ConstTensorView targets) = 0;
  // Adds to every parameter's gradient; after a forward with ctx.training, collective like it.
  virtual void backward(Context& ctx) = 0;

  // What the model keeps from step to step beside its parameters (router biases), for checkpoints.
  virtual std::vector<ShardedTensor> state() = 0;
  // Once after the update of each optimizer step; collective over the world.
  virtual void end_step(Context& ctx) = 0;

  // All parameters in a fixed order; they live as long as the model.
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // The layers with experts and the blocks they stand in, in order.
  struct IndexedMoeLayer {
    std::int64_t block;
    RoutedLayer* layer;
  };
  const std::vector<IndexedMoeLayer>& moe_layers() const { return moe_layers_; }

 protected:
  std::vector<Parameter*> parameters_;
  std::vector<IndexedMoeLayer> moe_layers_;
};

// The model that model.kind names. `experiment` is resolved and validated; `grid` must outlive the model.
std::unique_ptr<Model> make_model(const config::Experiment& experiment, const ProcessGrid& grid);

}  // namespace conclave
