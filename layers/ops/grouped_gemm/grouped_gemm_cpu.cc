#include <dnnl.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>

#include "layers/ops/grouped_gemm/grouped_gemm.h"

namespace conclave::cpu {
namespace {

// Rows of an output that one oneDNN call computes. The cut does not depend on the number of threads, and
// every call runs on one thread, so neither do the results. Large enough that packing the other operand again
// for each block costs little.
constexpr std::int64_t kBlockRows = 256;

// Runs compute(expert, first, last) -> dnnl_status_t for every block [first, last) of the output rows
// [begin(expert), end(expert)) of every expert, on all threads. An exception can't leave a parallel region,
// so the worst status is carried out of it.
template <class Begin, class End, class Compute>
void for_each_block(std::int64_t experts, Begin begin, End end, Compute compute) {
  int worst = dnnl_success;
#pragma omp parallel reduction(max : worst)
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    const std::int64_t last_row = end(expert);
    // No thread waits at the end of an expert: with few rows each, threads work on different experts.
#pragma omp for schedule(dynamic) nowait
    for (std::int64_t first = begin(expert); first < last_row; first += kBlockRows) {
      worst =
          std::max(worst, static_cast<int>(compute(expert, first, std::min(first + kBlockRows, last_row))));
    }
  }
  CONCLAVE_CHECK(worst == dnnl_success, "oneDNN refused a grouped gemm of {} experts: status {}", experts,
                 worst);
}

// The same over the rows [offsets[expert], offsets[expert + 1]) of every expert.
template <class Compute>
void for_each_block(std::span<const std::int64_t> offsets, Compute compute) {
  for_each_block(
      std::ssize(offsets) - 1, [&](std::int64_t expert) { return offsets[static_cast<std::size_t>(expert)]; },
      [&](std::int64_t expert) { return offsets[static_cast<std::size_t>(expert) + 1]; }, compute);
}

}  // namespace

void grouped_gemm(const GroupedGemmArgs& args) {
  const std::int64_t n = args.weights.extent(1);
  const std::int64_t k = args.weights.extent(2);
  const float* x = args.x.data<float>();
  const float* weights = args.weights.data<float>();
  float* y = args.y.data<float>();
  if (n == 0) return;
  if (k == 0) {
    std::ranges::fill(args.y.values<float>(), 0.0F);
    return;
  }
  for_each_block(args.offsets.values<std::int64_t>(),
                 [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
                   return dnnl_sgemm('N', 'T', last - first, n, k, 1.0F, x + first * k, k,
                                     weights + expert * n * k, k, 0.0F, y + first * n, n);
                 });
}

void grouped_gemm_input_gradient(const GroupedGemmInputGradientArgs& args) {
  const std::int64_t n = args.weights.extent(1);
  const std::int64_t k = args.weights.extent(2);
  const float* dy = args.dy.data<float>();
  const float* weights = args.weights.data<float>();
  float* dx = args.dx.data<float>();
  if (k == 0) return;
  if (n == 0) {
    std::ranges::fill(args.dx.values<float>(), 0.0F);
    return;
  }
  for_each_block(args.offsets.values<std::int64_t>(),
                 [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
                   return dnnl_sgemm('N', 'N', last - first, k, n, 1.0F, dy + first * n, n,
                                     weights + expert * n * k, k, 0.0F, dx + first * k, k);
                 });
}

void grouped_gemm_weight_gradient(const GroupedGemmWeightGradientArgs& args) {
  const std::int64_t n = args.dweights.extent(1);
  const std::int64_t k = args.dweights.extent(2);
  const float* dy = args.dy.data<float>();
  const float* x = args.x.data<float>();
  float* dweights = args.dweights.data<float>();
  const auto offsets = args.offsets.values<std::int64_t>();
  if (n == 0 || k == 0) return;
  for_each_block(
      args.dweights.extent(0), [](std::int64_t) { return std::int64_t{0}; }, [&](std::int64_t) { return n; },
      [&](std::int64_t expert, std::int64_t first, std::int64_t last) {
        const std::int64_t begin = offsets[static_cast<std::size_t>(expert)];
        const std::int64_t rows = offsets[static_cast<std::size_t>(expert) + 1] - begin;
        float* gradient = dweights + (expert * n + first) * k;
        if (rows == 0) {
          if (!args.accumulate) std::fill_n(gradient, (last - first) * k, 0.0F);
          return dnnl_success;
        }
        return dnnl_sgemm('T', 'N', last - first, k, rows, 1.0F, dy + begin * n + first, n, x + begin * k, k,
                          args.accumulate ? 1.0F : 0.0F, gradient, k);
      });
}

}  // namespace conclave::cpu
