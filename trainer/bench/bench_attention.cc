#include "layers/ops/attention/attention.h"
#include "trainer/bench/bench.h"
#include "trainer/bench/module_runs.h"
#include "trainer/bench/random_tensor.h"

namespace conclave::bench {

std::vector<Row> bench_attention(const Job& job) {
  const config::Model& model = job.experiment.model();
  const AttentionShape shape{model.heads(), model.kv_heads(), model.head_dim()};
  constexpr std::int64_t kTokens = 4096;  // of a rank, about; whole sequences
  std::vector<Row> rows;
  for (std::int64_t S = 128; S <= std::max<std::int64_t>(model.max_seq(), 128); S *= 2) {
    const std::int64_t sequences = std::max<std::int64_t>(kTokens / S, 1);
    const std::int64_t T = sequences * S;
    const Shape queries{T, shape.query_width()};
    const Shape keys{T, shape.kv_width()};
    const Buffer q = random_tensor(queries, DType::kFloat32, "q", job.memory());
    const Buffer k = random_tensor(keys, DType::kFloat32, "k", job.memory());
    const Buffer v = random_tensor(keys, DType::kFloat32, "v", job.memory());
    const Buffer dy = random_tensor(queries, DType::kFloat32, "dy", job.memory());
    const Buffer y(queries, DType::kFloat32, job.memory());
    const Buffer log_sum_exp({T, shape.heads}, DType::kFloat32, job.memory());
    const Buffer dq(queries, DType::kFloat32, job.memory());
    const Buffer dk(keys, DType::kFloat32, job.memory());
    const Buffer dv(keys, DType::kFloat32, job.memory());
    Arena arena(job.memory());
    const std::vector<double> laps = job.median_laps([&](Stopwatch& watch) {
      arena.reset();
      Context ctx = job.context(arena);
      watch.restart();
      attention_forward(ctx, {.shape = shape,
                              .sequence_length = S,
                              .causal = model.causal(),
                              .padding = {},
                              .q = q.view(),
                              .k = k.view(),
                              .v = v.view(),
                              .y = y.view(),
                              .log_sum_exp = log_sum_exp.view()});
      watch.lap();
      attention_backward(ctx, {.shape = shape,
                               .sequence_length = S,
                               .causal = model.causal(),
                               .padding = {},
                               .q = q.view(),
                               .k = k.view(),
                               .v = v.view(),
                               .y = y.view(),
                               .log_sum_exp = log_sum_exp.view(),
                               .dy = dy.view(),
                               .dq = dq.view(),
                               .dk = dk.view(),
                               .dv = dv.view()});
      watch.lap();
    });
    const double forward =
        (model.causal() ? 2.0 : 4.0) * static_cast<double>(T * S * shape.query_width()) * job.world.size();
    const char* const passes[] = {"attention forward", "attention backward"};
    for (std::size_t pass = 0; pass < laps.size(); ++pass) {
      const double flops = forward * (pass == 0 ? 1 : 2);
      rows.push_back({{"operation", passes[pass]},
                      {"shape", fmt::format("{} x {} tokens, {} heads ({} key/value) of {}", sequences, S,
                                            shape.heads, shape.kv_heads, shape.head_dim)},
                      {"ms", 1e3 * laps[pass]},
                      {"gflops", flops / laps[pass] / 1e9},
                      {"peak_share", job.peak_share(flops, laps[pass])}});
    }
  }
  return rows;
}

}  // namespace conclave::bench
