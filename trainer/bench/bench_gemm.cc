#include "layers/feed_forward/hidden_layer.h"
#include "layers/linear/linear_weight.h"
#include "trainer/bench/bench.h"
#include "trainer/bench/module_runs.h"
#include "trainer/bench/random_tensor.h"

namespace conclave::bench {
namespace {

Row timed_row(const Job& job, const std::string& operation, const std::string& shape, double flops_of_rank,
              double seconds) {
  const double flops = flops_of_rank * job.world.size();
  return {{"operation", operation},
          {"shape", shape},
          {"ms", 1e3 * seconds},
          {"gflops", flops / seconds / 1e9},
          {"peak_share", job.peak_share(flops, seconds)}};
}

// y [M, N] = x [M, K] W [N, K]^T and its gradients.
void add_linear(const Job& job, const std::string& name, std::int64_t m, std::int64_t n, std::int64_t k,
                std::vector<Row>& rows) {
  const DType dtype = compute_dtype(job.compute());
  const Buffer x = random_tensor({m, k}, dtype, "x", job.memory());
  Parameter w("w", {n, k});
  w.initialise_normal(1, 1.0);
  move_to_memory(job, w);
  LinearWeight weight(w);  // packed once, in the warm-up, as in training once a step
  const Buffer dy = random_tensor({m, n}, dtype, "dy", job.memory());
  const Buffer y({m, n}, dtype, job.memory());
  const Buffer dx({m, k}, dtype, job.memory());
  Arena arena(job.memory());
  Context ctx = job.context(arena);
  const std::vector<double> laps = job.median_laps([&](Stopwatch& watch) {
    w.zero_gradient();  // as a step does: the first micro-batch assigns it
    weight.forward(ctx, x.view(), y.view());
    watch.lap();
    weight.input_gradient(ctx, dy.view(), dx.view());
    watch.lap();
    weight.weight_gradient(ctx, dy.view(), x.view());
    watch.lap();
  });
  const std::string shape = fmt::format("M {} N {} K {}", m, n, k);
  const double flops = 2.0 * static_cast<double>(m * n * k);
  const char* const passes[] = {" forward", " dx", " dW"};
  for (std::size_t pass = 0; pass < laps.size(); ++pass)
    rows.push_back(timed_row(job, name + passes[pass], shape, flops, laps[pass]));
}

}  // namespace

std::vector<Row> bench_gemm(const Job& job) {
  const config::Model& model = job.experiment.model();
  const std::int64_t T = tokens_of_rank(job);
  const std::int64_t D = model.d_model();
  const std::int64_t query_width = model.heads() * model.head_dim();
  const std::int64_t kv_width = model.kv_heads() * model.head_dim();
  std::vector<Row> rows;
  add_linear(job, "query", T, query_width, D, rows);
  if (kv_width != query_width) add_linear(job, "key", T, kv_width, D, rows);
  add_linear(job, "attention out", T, D, query_width, rows);
  add_linear(job, "feed-forward in", T, input_projections(model.activation()) * model.d_ff(), D, rows);
  add_linear(job, "feed-forward out", T, D, model.d_ff(), rows);
  add_linear(job, "head", std::min<std::int64_t>(T, 256), model.vocab_size(), D, rows);
  return rows;
}

std::vector<Row> bench_grouped_gemm(const Job& job) {
  const config::Moe& moe = job.experiment.moe();
  const std::int64_t D = job.experiment.model().d_model();
  const ExpertsRun run(job);
  const std::int64_t n = run.local_experts();
  const std::int64_t inputs = input_projections(moe.activation()) * moe.d_ff();
  const DType dtype = compute_dtype(job.compute());
  constexpr std::int64_t kMostRows = 65536;  // of a rank: operands are a few hundred MB at most

  Parameter w("w", {n, inputs, D}, {0, n});
  w.initialise_normal(1, 1.0);
  move_to_memory(job, w);
  LinearWeight weight(w);
  Arena arena(job.memory());
  Context ctx = job.context(arena);
  std::vector<Row> rows;
  for (const std::int64_t per_expert : {8, 16, 32, 128, 512, 2048}) {
    const std::int64_t R = n * per_expert;
    if (R > kMostRows) break;
    const Buffer offsets = even_offsets(job, n, per_expert);
    const Buffer x = random_tensor({R, D}, dtype, "x", job.memory());
    const Buffer dy = random_tensor({R, inputs}, dtype, "dy", job.memory());
    const Buffer y({R, inputs}, dtype, job.memory());
    const Buffer dx({R, D}, dtype, job.memory());
    const std::vector<double> laps = job.median_laps([&](Stopwatch& watch) {
      w.zero_gradient();
      weight.forward(ctx, x.view(), y.view(), offsets.view());
      watch.lap();
      weight.input_gradient(ctx, dy.view(), dx.view(), offsets.view());
      watch.lap();
      weight.weight_gradient(ctx, dy.view(), x.view(), offsets.view());
      watch.lap();
    });
    const std::string shape = fmt::format("{} experts x {} rows, N {} K {}", n, per_expert, inputs, D);
    const double flops = 2.0 * static_cast<double>(R * inputs * D);
    const char* const passes[] = {"experts' input forward", "experts' input dx", "experts' input dW"};
    for (std::size_t pass = 0; pass < laps.size(); ++pass)
      rows.push_back(timed_row(job, passes[pass], shape, flops, laps[pass]));

    const PassSeconds whole = run.measure(per_expert);
    const std::string all = fmt::format("{} experts x {} rows, D {} F {}", n, per_expert, D, moe.d_ff());
    rows.push_back(timed_row(job, "experts forward", all, run.forward_flops(per_expert), whole.forward));
    rows.push_back(
        timed_row(job, "experts backward", all, 2 * run.forward_flops(per_expert), whole.backward));
    rows.push_back(timed_row(job, "experts both", all, 3 * run.forward_flops(per_expert),
                             whole.forward + whole.backward));
  }
  return rows;
}

}  // namespace conclave::bench
