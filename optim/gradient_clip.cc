#include "optim/gradient_clip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace conclave {
namespace {

// A block is summed by one thread in a fixed order of 16 interleaved sums.
constexpr std::int64_t kBlockElements = 16 * 1024;
constexpr std::size_t kLanes = 16;

double block_sum_of_squares(std::span<const float> values) {
  std::array<double, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
#pragma omp simd
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(values[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (std::size_t lane = 0; i < values.size(); ++i, ++lane) {
    lanes[lane] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// `block_sums` is scratch memory.
double sum_of_squares(std::span<const float> values, std::vector<double>& block_sums) {
  const auto count = static_cast<std::int64_t>(values.size());
  const std::int64_t blocks = (count + kBlockElements - 1) / kBlockElements;
  block_sums.resize(static_cast<std::size_t>(blocks));
#pragma omp parallel for schedule(static) if (blocks > 4)
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t begin = block * kBlockElements;
    block_sums[static_cast<std::size_t>(block)] = block_sum_of_squares(values.subspan(
        static_cast<std::size_t>(begin), static_cast<std::size_t>(std::min(kBlockElements, count - begin))));
  }
  double sum = 0.0;
  for (const double block_sum : block_sums) sum += block_sum;
  return sum;
}

}  // namespace

double global_gradient_norm(const std::vector<Parameter*>& parameters, const ProcessGrid& grid) {
  // One term for each replicated parameter and each expert of the others, in the order of parameters
  // and global expert ids. A rank fills in the experts that it holds; the others are zero until the
  // ranks are added up.
  std::vector<double> replicated_terms;
  std::vector<double> expert_terms;
  std::vector<double> block_sums;
  for (const Parameter* parameter : parameters) {
    if (parameter->sharding() == Sharding::kReplicated) {
      replicated_terms.push_back(sum_of_squares(parameter->gradient().values<float>(), block_sums));
      continue;
    }
    const std::size_t first = expert_terms.size();
    expert_terms.resize(first + static_cast<std::size_t>(parameter->global_shape()[0]));
    const Range held = parameter->local_rows();
    for (std::int64_t expert = held.begin; expert < held.end; ++expert) {
      const std::int64_t row = expert - held.begin;
      expert_terms[first + static_cast<std::size_t>(expert)] =
          sum_of_squares(parameter->gradient().rows(row, row + 1).values<float>(), block_sums);
    }
  }
  grid.expert_parallel().all_reduce(buffer_view(std::span(expert_terms)));

  double sum = 0.0;
  for (const double term : replicated_terms) sum += term;
  for (const double term : expert_terms) sum += term;
  return std::sqrt(sum);
}

double clip_scale(double norm, double max_norm) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace conclave
