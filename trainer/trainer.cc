#include "trainer/trainer.h"

#include <omp.h>

#include "configs/moe_layers.h"
#include "optim/freeze.h"
#include "optim/make_optimizer.h"
#include "trainer/compute_format.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

// The parameters of `model`, frozen as train.freeze says: before anyone deals them out or counts them.
const std::vector<Parameter*>& freeze_as_configured(const config::Experiment& experiment, Model& model) {
  const auto& patterns = experiment.train().freeze();
  freeze(std::vector<std::string>(patterns.begin(), patterns.end()), model.parameters());
  return model.parameters();
}

// The host reaches a GPU's memory (comm/cuda/memory.h): for those who know of none.
std::vector<ShardedTensor> on_host(std::vector<ShardedTensor> tensors) {
  for (ShardedTensor& tensor : tensors)
    tensor.local = TensorView(tensor.local.raw(), tensor.local.shape(), tensor.local.dtype());
  return tensors;
}

PathOptions path_options(const config::Parallel& parallel) {
  PathOptions options{.ranks_per_node = static_cast<int>(parallel.ranks_per_node())};
  switch (parallel.exchange()) {
    case config::Parallel::auto_:
      options.path = Path::kAuto;
      break;
    case config::Parallel::shared:
      options.path = Path::kShared;
      break;
    case config::Parallel::mpi:
      options.path = Path::kMpi;
      break;
    case config::Parallel::hierarchical:
      options.path = Path::kHierarchical;
      break;
  }
  return options;
}

// Before any group is split from `world`.
Communicator& with_paths(Communicator& world, const config::Experiment& experiment) {
  world.set_paths(path_options(experiment.parallel()));
  return world;
}

// By micro-batch, as the host reads them.
Buffer make_losses(Shape shape, bool from_gpu) {
  return from_gpu ? Buffer::pinned(shape, DType::kFloat64) : Buffer(shape, DType::kFloat64);
}

}  // namespace

Trainer::Trainer(const config::Experiment& resolved, Communicator& all_ranks)
    : Trainer(resolved, all_ranks, on_all_ranks(all_ranks, [&] { return data::open_data(resolved); })) {}

Trainer::Trainer(const config::Experiment& resolved, Communicator& all_ranks,
                 std::unique_ptr<data::TrainingData> data)
    : experiment(resolved),
      device(resolved, with_paths(all_ranks, resolved)),
      gpu(device.gpu.get()),
      world(device.world),
      grid(world, expert_parallel_size(resolved, world.size())),
      owned_dataset(std::move(data)),
      dataset(*owned_dataset),
      owned_model(make_model(experiment, grid)),
      model(device.moved_here(*owned_model)),
      compute(compute_format(resolved, world, gpu != nullptr)),
      ownership(freeze_as_configured(experiment, model), grid, experiment.optim().zero() == 1, gpu),
      gradient_reduction(ownership, experiment.parallel().overlap_reduction()),
      gradient_norm(ownership),
      optimizer(make_optimizer(experiment.optim(), ownership)),
      value_gather(ownership),
      arena(device.memory()),
      losses(make_losses({batch_cut(experiment, world.size()).micro_steps()}, gpu != nullptr)),
      routing_recorder(experiment, model, dataset, world) {
  if (experiment.run().determinism() == config::Run::cross_layout) {
    // What a kernel adds up in which order may depend on its threads, and their number on the layout.
    omp_set_num_threads(1);
    for (Parameter* parameter : model.parameters()) parameter->sum_gradients_exactly();
  }
}

std::vector<ShardedTensor> Trainer::replicated_tensors() {
  synchronize();
  std::vector<ShardedTensor> tensors;
  for (Parameter* parameter : model.parameters()) tensors.push_back(parameter->sharded());
  for (ShardedTensor& tensor : model.state()) tensors.push_back(std::move(tensor));
  return on_host(std::move(tensors));
}

void Trainer::synchronize() const { device.synchronize(); }

std::vector<ShardedTensor> Trainer::checkpoint_tensors() {
  std::vector<ShardedTensor> tensors = replicated_tensors();
  for (ShardedTensor& tensor : optimizer->state()) tensors.push_back(std::move(tensor));
  return on_host(std::move(tensors));
}

Context Trainer::context(const BatchPosition& position, bool training) {
  return {.gpu = gpu,
          .arena = &arena,
          .grid = &grid,
          .clock = &clock,
          .compute = compute,
          .training = training,
          .batch = position};
}

data::BatchCut batch_cut(const config::Experiment& experiment, int world_size) {
  return {.global_batch = experiment.train().global_batch(),
          .micro_batch = experiment.train().micro_batch(),
          .ranks = world_size,
          .fixed_shards = experiment.run().determinism() == config::Run::cross_layout};
}

int expert_parallel_size(const config::Experiment& experiment, int world_size) {
  const std::int64_t configured = experiment.parallel().expert_parallel_size();
  if (configured != 0) return static_cast<int>(configured);
  return automatic_expert_parallel_size(world_size, config::most_experts(experiment));
}

}  // namespace conclave
