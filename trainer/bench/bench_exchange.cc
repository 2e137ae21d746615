#include <algorithm>

#include "comm/mpi/exchange_baselines.h"
#include "comm/mpi/mpi_communicator.h"
#include "layers/moe/exchange.h"
#include "trainer/bench/bench.h"
#include "trainer/bench/module_runs.h"
#include "trainer/bench/random_tensor.h"
#include "trainer/trainer.h"

namespace conclave::bench {
namespace {

// Rows of the given width go from every rank to every other, as tokens to their experts, and the same through
// the baselines. GB/s: bytes that a rank sends to others a second.
Row measure(const Job& job, const ProcessGrid& grid, std::int64_t bytes_per_peer) {
  const int ranks = job.world.size();
  const std::int64_t D = job.experiment.model().d_model();
  const std::int64_t row_bytes = D * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t rows_per_peer = std::max<std::int64_t>(bytes_per_peer / row_bytes, 1);
  const std::int64_t bytes = rows_per_peer * row_bytes;

  // One expert a rank, as many rows for each.
  DispatchPlan plan;
  plan.expert_offsets.resize(static_cast<std::size_t>(ranks) + 1);
  for (int rank = 0; rank <= ranks; ++rank)
    plan.expert_offsets[static_cast<std::size_t>(rank)] = rank * rows_per_peer;
  plan.choice_of_row.resize(static_cast<std::size_t>(ranks * rows_per_peer));
  Exchange exchange(ranks, grid);
  Arena arena;
  Context ctx{.arena = &arena, .grid = &grid};
  exchange.agree(ctx, rows_of(plan));
  const Buffer rows = random_tensor({ranks * rows_per_peer, D}, DType::kFloat32, "rows");

  ExchangeBaselines baselines(bytes);
  TimingOptions timing = job.timing;
  timing.most_repetitions = 2000;  // a call of 64 KiB takes microseconds
  const auto together = [&](Stopwatch& watch) {
    baselines.use_what_arrived();
    job.world.barrier().wait();
    watch.restart();
  };
  const std::vector<double> laps = median_laps(job.world, timing, [&](Stopwatch& watch) {
    arena.reset();
    together(watch);
    const TensorView received = exchange.dispatch(ctx, rows.view());
    watch.lap();
    std::ranges::fill(received.values<float>(), 1.0F);
    together(watch);
    baselines.all_to_all_v();
    watch.lap();
    together(watch);
    if (baselines.has_window()) baselines.copy_into_window();
    watch.lap();
  });
  const auto gb_per_second = [&](double seconds) {
    return static_cast<double>(bytes * (ranks - 1)) / seconds / 1e9;
  };
  Row row{{"bytes_per_peer", bytes},
          {"exchange_us", 1e6 * laps[0]},
          {"exchange_gb_per_s", gb_per_second(laps[0])},
          {"alltoallv_gb_per_s", gb_per_second(laps[1])}};
  if (baselines.has_window()) row["memcpy_gb_per_s"] = gb_per_second(laps[2]);
  row["of_alltoallv"] = laps[1] / laps[0];
  if (baselines.has_window()) row["of_memcpy"] = laps[2] / laps[0];
  return row;
}

}  // namespace

std::vector<Row> bench_exchange(const Job& job) {
  if (job.world.size() == 1 || !MpiRuntime::active())
    throw ConfigError(
        "bench exchange: one rank exchanges nothing; start it as launch/mpirun.sh 2 build/conclave "
        "bench exchange");
  const ProcessGrid grid(job.world, job.world.size());
  std::vector<Row> rows;
  for (std::int64_t bytes = std::int64_t{16} << 10; bytes <= std::int64_t{8} << 20; bytes *= 2)
    rows.push_back(measure(job, grid, bytes));
  return rows;
}

}  // namespace conclave::bench
