#include <functional>

#include "configs/moe_layers.h"
#include "layers/attention/attention.h"
#include "layers/feed_forward/feed_forward.h"
#include "layers/model/transformer_block.h"
#include "layers/moe/moe_layer.h"
#include "trainer/bench/bench.h"
#include "trainer/bench/module_runs.h"
#include "trainer/bench/random_tensor.h"
#include "trainer/model_flops.h"
#include "trainer/trainer.h"

namespace conclave::bench {
namespace {

// The experiment with one layer, of one kind, and no vocabulary to speak of: what is left of its operations
// is the layer's.
double forward_flops_of_block(config::Experiment experiment, bool is_moe) {
  config::Model& model = *experiment.mutable_model();
  model.set_layers(1);
  model.set_vocab_size(0);
  experiment.mutable_moe()->set_every(1);
  if (!is_moe) experiment.mutable_moe()->set_experts(0);
  const ModelFlops flops(experiment);
  return 2.0 * static_cast<double>(flops.active_matrix_parameters) + flops.attention_forward;
}

double forward_flops_of_attention(const config::Experiment& experiment) {
  config::Experiment dense = experiment;
  dense.mutable_model()->set_d_ff(0);
  return forward_flops_of_block(dense, /*is_moe=*/false);
}

}  // namespace

std::vector<Row> bench_layer(const Job& job) {
  const config::Experiment& experiment = job.experiment;
  const config::Model& model = experiment.model();
  const ProcessGrid grid(job.world, expert_parallel_size(experiment, job.world.size()));
  const std::int64_t T = tokens_of_rank(job);
  const Buffer x = random_tensor({T, model.d_model()}, DType::kFloat32, "x", job.memory());
  const Buffer dy = random_tensor({T, model.d_model()}, DType::kFloat32, "dy", job.memory());
  Arena arena(job.memory());
  std::vector<Row> rows;
  const auto add = [&](const std::string& name, Module& module, double forward_flops_of_token) {
    move_to_memory(job, module);
    StepClock clock;
    const std::vector<double> laps = job.median_laps([&](Stopwatch& watch) {
      arena.reset();
      Context ctx = job.context(arena);
      ctx.grid = &grid;
      ctx.clock = &clock;
      ctx.batch = full_micro_batch(job);
      watch.restart();
      module.forward(ctx, x.view());
      watch.lap();
      module.backward(ctx, dy.view());
      watch.lap();
    });
    const double flops = 3 * forward_flops_of_token * static_cast<double>(T * job.world.size());
    const double seconds = laps[0] + laps[1];
    rows.push_back({{"module", name},
                    {"tokens_of_rank", T},
                    {"forward_ms", 1e3 * laps[0]},
                    {"backward_ms", 1e3 * laps[1]},
                    {"gflops", flops / seconds / 1e9},
                    {"peak_share", job.peak_share(flops, seconds)}});
  };

  const std::uint64_t seed = experiment.run().seed();
  const double attention_flops = forward_flops_of_attention(experiment);
  Attention attention(model, "attention", model.init_std(), model.init_std(), seed);
  add("attention", attention, attention_flops);
  FeedForward dense("dense", model.d_model(), model.d_ff(), model.init_std(), model.init_std(), seed,
                    model.activation());
  add(fmt::format("dense feed-forward of {}", model.d_ff()), dense,
      forward_flops_of_block(experiment, false) - attention_flops);
  if (experiment.moe().experts() > 0) {
    const config::Moe& moe = experiment.moe();
    MoeLayer layer(config::experiment_of_layer(experiment, moe.every() - 1), "moe", grid);
    add(fmt::format("MoE layer, {} experts of {}, top-{}", moe.experts(), moe.d_ff(), moe.top_k()), layer,
        forward_flops_of_block(experiment, true) - attention_flops);
  }
  TransformerBlock block(experiment, std::max<std::int64_t>(experiment.moe().every(), 1) - 1, grid);
  add(block.moe() != nullptr ? "MoE block" : "dense block", block,
      forward_flops_of_block(experiment, block.moe() != nullptr));
  return rows;
}

}  // namespace conclave::bench
