#include "optim/gradient_clip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "comm/cuda/memory.h"
#include "optim/cuda/kernels.h"

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

}  // namespace

GradientNorm::GradientNorm(const Ownership& ownership)
    : ownership_(&ownership),
      replicated_(part_of(Sharding::kReplicated)),
      experts_(part_of(Sharding::kExpert)) {}

GradientNorm::Part GradientNorm::part_of(Sharding sharding) const {
  Part part{.sharding = sharding, .blocks = {}, .sums = {}};
  std::size_t places = 0;
  for (const OwnedParameter& owned : ownership_->parameters()) {
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
        part.blocks.push_back(
            {&owned, rows, places + static_cast<std::size_t>((first_unit + unit) * of_unit + block)});
      }
    }
    places += static_cast<std::size_t>((is_expert ? parameter.global_shape()[0] : 1) * of_unit);
  }
  part.sums.resize(places);
  return part;
}

void GradientNorm::start_sums_on_gpu(Part& part) const {
  const auto count = static_cast<std::int64_t>(part.blocks.size());
  if (count == 0) return;
  if (part.sums_on_gpu.view().raw() == nullptr) {
    std::vector<cuda::SquaresBlock> blocks;
    for (const Block& block : part.blocks) {
      const std::span<const float> values =
          block.owned->elements(ConstTensorView(block.owned->parameter->gradient()), block.rows);
      blocks.push_back({values.data(), static_cast<std::int64_t>(values.size())});
    }
    const auto bytes = static_cast<std::int64_t>(blocks.size() * sizeof(cuda::SquaresBlock));
    part.blocks_on_gpu = Buffer({bytes}, DType::kUInt8, ownership_->gpu()->device());
    ownership_->gpu()->staging().upload(part.blocks_on_gpu.view().raw(), blocks.data(),
                                        static_cast<std::size_t>(bytes));
    part.sums_on_gpu = Buffer({count}, DType::kFloat64, ownership_->gpu()->device());
    part.sums_on_host = Buffer::pinned({count}, DType::kFloat64);
  }
  cuda::sums_of_squares(ownership_->gpu()->stream().handle(),
                        static_cast<const cuda::SquaresBlock*>(part.blocks_on_gpu.view().raw()),
                        part.sums_on_gpu.view().data<double>(), count);
  cuda::copy(ownership_->gpu()->stream(), part.sums_on_host.view().raw(), part.sums_on_gpu.view().raw(),
             static_cast<std::size_t>(count) * sizeof(double));
}

void GradientNorm::sum_blocks_on_gpu() {
  start_sums_on_gpu(replicated_);
  start_sums_on_gpu(experts_);
  ownership_->gpu()->stream().synchronize();
  for (Part* part : {&replicated_, &experts_}) {
    if (part->blocks.empty()) continue;
    const std::span<const double> sums = part->sums_on_host.view().values<double>();
    for (std::size_t i = 0; i < sums.size(); ++i) part->sums[part->blocks[i].place] = sums[i];
  }
}

void GradientNorm::sum_blocks(Part& part) const {
#pragma omp parallel for schedule(static) if (part.blocks.size() > 16)
  for (std::size_t i = 0; i < part.blocks.size(); ++i) {
    const Block& block = part.blocks[i];
    const ConstTensorView gradient = block.owned->parameter->gradient();
    part.sums[block.place] = block_sum_of_squares(block.owned->elements(gradient, block.rows));
  }
}

// Adds up block by block within a unit, then unit by unit.
double GradientNorm::sum_units(const Part& part) const {
  double sum = 0.0;
  auto next = part.sums.begin();
  for (const OwnedParameter& owned : ownership_->parameters()) {
    if (owned.parameter->sharding() != part.sharding) continue;
    const std::int64_t units = part.sharding == Sharding::kExpert ? owned.parameter->global_shape()[0] : 1;
    for (std::int64_t unit = 0; unit < units; ++unit) {
      double term = 0.0;
      for (std::int64_t block = 0; block < owned.blocks_of_unit(); ++block) term += *next++;
      sum += term;
    }
  }
  return sum;
}

double GradientNorm::compute() {
  // A gradient that nobody has touched is zeros that are still to be written: not by several threads at once.
  for (const OwnedParameter& owned : ownership_->parameters()) owned.parameter->gradient();
  for (Part* part : {&replicated_, &experts_})
    std::ranges::fill(part->sums, 0.0);  // those of others came in by the reduction before
  if (ownership_->gpu() != nullptr) {
    sum_blocks_on_gpu();
  } else {
    sum_blocks(replicated_);
    sum_blocks(experts_);
  }
  const ProcessGrid& grid = ownership_->grid();
  // Each block is filled in by one rank of the group that adds up; the zeros of the others change nothing.
  if (ownership_->sharded()) grid.world().all_reduce(buffer_view(std::span(replicated_.sums)));
  Communicator& holders = ownership_->sharded() ? grid.world() : grid.expert_parallel();
  holders.all_reduce(buffer_view(std::span(experts_.sums)));
  return std::sqrt(sum_units(replicated_) + sum_units(experts_));
}

double clip_scale(double norm, double max_norm) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace conclave
