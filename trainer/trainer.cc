#include "trainer/trainer.h"

#include "optim/make_optimizer.h"
#include "trainer/shared_error.h"

namespace conclave {

Trainer::Trainer(const config::Experiment& resolved, Communicator& all_ranks)
    : experiment(resolved),
      world(all_ranks),
      grid(all_ranks, expert_parallel_size(resolved, all_ranks.size())),
      dataset(on_all_ranks(all_ranks, [&] { return data::Dataset(resolved); })),
      model(experiment, grid),
      gradient_reduction(model.parameters(), grid),
      optimizer(make_optimizer(experiment.optim(), model.parameters())) {}

std::vector<ShardedTensor> Trainer::replicated_tensors() {
  std::vector<ShardedTensor> tensors;
  for (const Parameter* parameter : model.parameters()) tensors.push_back(parameter->sharded());
  for (ShardedTensor& tensor : model.state()) tensors.push_back(std::move(tensor));
  return tensors;
}

std::vector<ShardedTensor> Trainer::checkpoint_tensors() {
  std::vector<ShardedTensor> tensors = replicated_tensors();
  for (ShardedTensor& tensor : optimizer->state()) tensors.push_back(std::move(tensor));
  return tensors;
}

Context Trainer::context(const BatchPosition& position, bool training) {
  return {.arena = &arena, .grid = &grid, .clock = &clock, .training = training, .batch = position};
}

data::BatchCut batch_cut(const config::Experiment& experiment, int world_size) {
  return {.global_batch = experiment.train().global_batch(),
          .micro_batch = experiment.train().micro_batch(),
          .ranks = world_size};
}

int expert_parallel_size(const config::Experiment& experiment, int world_size) {
  const std::int64_t configured = experiment.parallel().expert_parallel_size();
  if (configured != 0) return static_cast<int>(configured);
  return automatic_expert_parallel_size(world_size, experiment.moe().experts());
}

}  // namespace conclave
