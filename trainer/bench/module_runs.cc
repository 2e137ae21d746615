#include "trainer/bench/module_runs.h"

#include "comm/base/error.h"
#include "trainer/bench/random_tensor.h"
#include "trainer/trainer.h"

namespace conclave::bench {
namespace {

ExpertsOptions options_of(const Job& job, Range local) {
  const config::Moe& moe = job.experiment.moe();
  return {.experts = moe.experts(),
          .local_experts = local,
          .d_model = job.experiment.model().d_model(),
          .d_ff = moe.d_ff(),
          .seed = job.experiment.run().seed(),
          .activation = moe.activation(),
          .recompute = job.experiment.train().recompute() == config::Train::experts};
}

ProcessGrid grid_of(const Job& job) {
  if (job.experiment.moe().experts() == 0)
    throw ConfigError("bench grouped_gemm: the model is dense; give moe.experts of at least 1");
  return {job.world, expert_parallel_size(job.experiment, job.world.size())};
}

}  // namespace

std::int64_t tokens_of_rank(const Job& job) {
  return job.experiment.train().micro_batch() * job.experiment.model().max_seq();
}

BatchPosition full_micro_batch(const Job& job) {
  const std::int64_t sequences = job.experiment.train().micro_batch();
  return {.first_sequence = job.world.rank() * sequences,
          .sequences = sequences,
          .sequence_length = job.experiment.model().max_seq(),
          .most_sequences = sequences,
          .global_sequences = job.world.size() * sequences};
}

void move_to_memory(const Job& job, Parameter& parameter) {
  if (job.gpu != nullptr) parameter.move_to(job.gpu->stream());
}

void move_to_memory(const Job& job, Module& module) {
  std::vector<Parameter*> parameters;
  module.collect_parameters(parameters);
  for (Parameter* parameter : parameters) move_to_memory(job, *parameter);
}

Buffer even_offsets(const Job& job, std::int64_t experts, std::int64_t rows_per_expert) {
  Buffer offsets({experts + 1}, DType::kInt64, job.memory());
  for (std::int64_t e = 0; e <= experts; ++e) offsets.view().data<std::int64_t>()[e] = e * rows_per_expert;
  return offsets;
}

ExpertsRun::ExpertsRun(const Job& job)
    : job_(&job),
      grid_(grid_of(job)),
      local_(grid_.local_experts(job.experiment.moe().experts())),
      experts_("experts", options_of(job, local_)) {
  experts_.collect_parameters(parameters_);
  for (Parameter* parameter : parameters_) move_to_memory(job, *parameter);
}

double ExpertsRun::forward_flops(std::int64_t rows_per_expert) const {
  const config::Moe& moe = job_->experiment.moe();
  const std::int64_t matrices = input_projections(moe.activation()) + 1;
  return 2.0 * static_cast<double>(local_.size() * rows_per_expert * matrices *
                                   job_->experiment.model().d_model() * moe.d_ff());
}

PassSeconds ExpertsRun::measure(std::int64_t rows_per_expert) const {
  const std::int64_t R = local_.size() * rows_per_expert;
  const std::int64_t D = job_->experiment.model().d_model();
  const Buffer offsets = even_offsets(*job_, local_.size(), rows_per_expert);
  const DType dtype = compute_dtype(job_->compute());
  const Buffer rows = random_tensor({R, D}, dtype, "rows", job_->memory());
  const Buffer dy = random_tensor({R, D}, dtype, "dy", job_->memory());
  Arena arena(job_->memory());
  const std::vector<double> laps = job_->median_laps([&](Stopwatch& watch) {
    arena.reset();
    Context ctx = job_->context(arena);
    ctx.grid = &grid_;
    for (Parameter* parameter : parameters_) parameter->zero_gradient();  // as a step does
    watch.restart();
    experts_.forward(ctx, rows.view(), offsets.view());
    watch.lap();
    experts_.backward(ctx, dy.view());
    watch.lap();
  });
  return {laps[0], laps[1]};
}

}  // namespace conclave::bench
