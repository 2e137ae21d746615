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

// The sums of squares of all blocks of the parameters of one sharding, in the order of parameters, global
// units (experts) and blocks. A rank fills in the blocks that it owns; the others, and frozen ones, are 0.
std::vector<double> block_sums(const Ownership& ownership, Sharding sharding) {
  struct Block {
    std::span<const float> gradient;
    std::size_t place;
  };
  std::vector<Block> owned_blocks;
  std::size_t places = 0;
  for (const OwnedParameter& owned : ownership.parameters()) {
    const Parameter& parameter = *owned.parameter;
    if (parameter.sharding() != sharding) continue;
    const bool is_expert = sharding == Sharding::kExpert;
    const std::int64_t of_unit = owned.blocks_of_unit();
    const std::int64_t first_unit = is_expert ? parameter.local_rows().begin : 0;
    for (std::int64_t unit = 0; unit < owned.units(); ++unit) {
      if (!owned.is_trained(unit)) continue;
      for (std::int64_t block = 0; block < of_unit; ++block) {
        const Range rows = owned.block(unit, block);
        if (rows.begin < owned.mine.begin || rows.end > owned.mine.end) continue;
        owned_blocks.push_back({owned.elements(parameter.gradient(), rows),
                                places + static_cast<std::size_t>((first_unit + unit) * of_unit + block)});
      }
    }
    places += static_cast<std::size_t>((is_expert ? parameter.global_shape()[0] : 1) * of_unit);
  }

  std::vector<double> sums(places);
#pragma omp parallel for schedule(static) if (owned_blocks.size() > 16)
  for (std::size_t i = 0; i < owned_blocks.size(); ++i) {
    sums[owned_blocks[i].place] = block_sum_of_squares(owned_blocks[i].gradient);
  }
  return sums;
}

// Adds up block by block within a unit, then unit by unit.
double sum_units(const Ownership& ownership, Sharding sharding, std::span<const double> block_sums) {
  double sum = 0.0;
  auto next = block_sums.begin();
  for (const OwnedParameter& owned : ownership.parameters()) {
    if (owned.parameter->sharding() != sharding) continue;
    const std::int64_t units = sharding == Sharding::kExpert ? owned.parameter->global_shape()[0] : 1;
    for (std::int64_t unit = 0; unit < units; ++unit) {
      double term = 0.0;
      for (std::int64_t block = 0; block < owned.blocks_of_unit(); ++block) term += *next++;
      sum += term;
    }
  }
  return sum;
}

}  // namespace

double global_gradient_norm(const Ownership& ownership) {
  const ProcessGrid& grid = ownership.grid();
  std::vector<double> replicated = block_sums(ownership, Sharding::kReplicated);
  std::vector<double> experts = block_sums(ownership, Sharding::kExpert);
  // Each block is filled in by one rank of the group that adds up; the zeros of the others change nothing.
  if (ownership.sharded()) grid.world().all_reduce(buffer_view(std::span(replicated)));
  Communicator& holders = ownership.sharded() ? grid.world() : grid.expert_parallel();
  holders.all_reduce(buffer_view(std::span(experts)));
  return std::sqrt(sum_units(ownership, Sharding::kReplicated, replicated) +
                   sum_units(ownership, Sharding::kExpert, experts));
}

double clip_scale(double norm, double max_norm) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace conclave
