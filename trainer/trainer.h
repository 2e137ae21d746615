// Everything one rank holds while it trains, split by lifetime: configuration, data, weights, optimizer
// state, and the memory of one micro-batch.
#pragma once

#include <memory>
#include <optional>

#include "comm/process_grid.h"
#include "configs/run.pb.h"
#include "layers/model/model.h"
#include "optim/gradient_clip.h"
#include "optim/gradient_reduction.h"
#include "optim/optimizer.h"
#include "optim/ownership.h"
#include "optim/value_gather.h"
#include "trainer/compute_device.h"
#include "trainer/data/batch.h"
#include "trainer/data/batch_order.h"
#include "trainer/data/training_data.h"
#include "trainer/inspect/routing_recorder.h"
#include "trainer/loss_spike.h"

namespace conclave {

struct Trainer {
  // Collective over `world`, which must outlive the trainer. `experiment` is resolved and validated. Throws
  // the same Error on every rank if the data can't be used or train.freeze fits no parameter.
  Trainer(const config::Experiment& experiment, Communicator& world);
  // On other data than data.train names: measurements take random ones.
  Trainer(const config::Experiment& experiment, Communicator& world,
          std::unique_ptr<data::TrainingData> data);

  config::Experiment experiment;
  ComputeDevice device;
  cuda::Engine* gpu;    // the device's; null: the CPU computes
  Communicator& world;  // the device's
  ProcessGrid grid;
  std::unique_ptr<data::TrainingData> owned_dataset;
  const data::TrainingData& dataset;  // the owned one

  std::unique_ptr<Model> owned_model;
  Model& model;   // the owned one
  DType compute;  // precision.compute, as this job can
  Ownership ownership;
  GradientReduction gradient_reduction;
  GradientNorm gradient_norm;
  std::unique_ptr<Optimizer> optimizer;
  ValueGather value_gather;

  LossWindow loss_window;        // of the last updates
  data::BatchOrder batch_order;  // of the steps

  Arena arena;             // activations of one micro-batch
  Buffer losses;           // fp64 [micro-batches of a step]: beside the arena, until the step is through
  data::MicroBatch batch;  // samples of one micro-batch
  StepClock clock;
  RoutingRecorder routing_recorder;  // log.routing
  std::int64_t trained_tokens = 0;   // since the start of the run, without padding

  // Every tensor of a checkpoint: parameters, router state and optimizer state. The host may read and write
  // them, until the next step.
  std::vector<ShardedTensor> checkpoint_tensors();
  // Those that ranks hold copies of: parameters and router state.
  std::vector<ShardedTensor> replicated_tensors();
  // What was enqueued is done: values, state and gradients may be read on the host. Does nothing without a
  // GPU.
  void synchronize() const;
  // A context for the micro-batch at `position`.
  Context context(const BatchPosition& position, bool training);
};

// How a step of this experiment is cut for this number of ranks.
data::BatchCut batch_cut(const config::Experiment& experiment, int world_size);

// parallel.expert_parallel_size with `auto` resolved for this number of ranks.
int expert_parallel_size(const config::Experiment& experiment, int world_size);

}  // namespace conclave
