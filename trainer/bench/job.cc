#include "trainer/bench/bench.h"
#include "trainer/bench/random_tensor.h"

namespace conclave::bench {

Context Job::context(Arena& arena) const {
  return {.gpu = gpu, .arena = &arena, .compute = compute_dtype(compute())};
}

std::vector<double> Job::median_laps(const std::function<void(Stopwatch&)>& repetition) const {
  return bench::median_laps(world, timing, repetition, gpu != nullptr ? &gpu->stream() : nullptr);
}

double Job::peak_share(double flops, double seconds) const {
  const double of_format = peak.of(compute());
  return of_format > 0 ? flops / seconds / 1e9 / of_format : 0;
}

}  // namespace conclave::bench
