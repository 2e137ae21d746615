#include "trainer/bench/machine_peak.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>

namespace conclave::bench {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// GFLOP/s of all ranks together in the best of some rounds, each of which ends with the slowest thread.
double best_rate(Communicator& world, const PeakLoop& loop) {
  constexpr int kRounds = 15;
  constexpr double kRoundSeconds = 0.02;
  std::int64_t iterations = 2048;
  double seconds_of_one = 0;
  while (seconds_of_one < kRoundSeconds / 4) {
    iterations *= 2;
    const auto start = std::chrono::steady_clock::now();
    volatile float sink = loop.run(iterations);
    static_cast<void>(sink);
    seconds_of_one = seconds_since(start);
  }
  auto agreed = static_cast<std::int64_t>(static_cast<double>(iterations) * kRoundSeconds / seconds_of_one);
  world.all_reduce(buffer_view(std::span(&agreed, 1)), ReduceOp::kMin);

  const int threads = omp_get_max_threads();
  std::int64_t all_threads = threads;
  world.all_reduce(buffer_view(std::span(&all_threads, 1)));
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    world.barrier().wait();
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    {
      volatile float sink = loop.run(agreed);
      static_cast<void>(sink);
    }
    double seconds = seconds_since(start);
    world.all_reduce(buffer_view(std::span(&seconds, 1)), ReduceOp::kMax);
    best =
        std::max(best, loop.flops_per_iteration * static_cast<double>(agreed * all_threads) / seconds / 1e9);
  }
  return best;
}

}  // namespace

MachinePeak measure_machine_peak(Communicator& world) {
  const PeakLoop fp32 = fp32_peak_loop();
  const PeakLoop bf16 = bf16_peak_loop();
  MachinePeak peak;
  peak.fp32 = best_rate(world, fp32);
  peak.fp32_instructions = fp32.instructions;
  // Ranks on other processors may lack what this one has: then the job has none.
  std::int64_t has_bf16 = bf16.run != nullptr ? 1 : 0;
  world.all_reduce(buffer_view(std::span(&has_bf16, 1)), ReduceOp::kMin);
  if (has_bf16 == 0) return peak;
  peak.bf16 = best_rate(world, bf16);
  peak.bf16_instructions = bf16.instructions;
  return peak;
}

}  // namespace conclave::bench
