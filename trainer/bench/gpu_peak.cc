#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "comm/cuda/runtime.h"
#include "layers/ops/gemm/gemm.h"
#include "trainer/bench/machine_peak.h"
#include "trainer/bench/random_tensor.h"
#include "trainer/bench/stopwatch.h"

namespace conclave::bench {
namespace {

std::int64_t size_that_fits(Communicator& world, const cuda::Engine& gpu, std::int64_t size) {
  std::int64_t memory_bytes = cuda::gpus().at(static_cast<std::size_t>(gpu.device().index)).memory_bytes;
  world.all_reduce(buffer_view(std::span(&memory_bytes, 1)), ReduceOp::kMin);
  constexpr std::int64_t kBytesAnElement = 3 * sizeof(float);  // of two factors and the result
  while (size > 1 && kBytesAnElement * size * size > memory_bytes / 4) size /= 2;
  return size;
}

// GFLOP/s of all ranks together, by the median of the slowest.
double product_rate(Communicator& world, cuda::Engine& gpu, std::int64_t size, DType dtype) {
  const Shape square{size, size};
  const Buffer a = random_tensor(square, dtype, "a", gpu.device());
  const Buffer b = random_tensor(square, dtype, "b", gpu.device());
  const Buffer c(square, dtype, gpu.device());
  Arena arena(gpu.device());
  Context ctx{.gpu = &gpu, .arena = &arena, .compute = dtype};
  const std::vector<double> laps = median_laps(
      world, TimingOptions(),
      [&](Stopwatch& watch) {
        gemm(ctx, {.a = a.view(), .b = b.view(), .c = c.view(), .transpose_b = true});
        watch.lap();
      },
      &gpu.stream());
  const auto n = static_cast<double>(size);
  return 2 * n * n * n * world.size() / laps[0] / 1e9;
}

}  // namespace

MachinePeak measure_gpu_peak(Communicator& world, cuda::Engine& gpu, std::int64_t size) {
  size = size_that_fits(world, gpu, size);
  const std::string what = fmt::format("cuBLAS, {} x {} x {}", size, size, size);
  return {.fp32 = product_rate(world, gpu, size, DType::kFloat32),
          .bf16 = product_rate(world, gpu, size, DType::kBFloat16),
          .fp32_instructions = what,
          .bf16_instructions = what};
}

}  // namespace conclave::bench
