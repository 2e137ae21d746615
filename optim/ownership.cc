#include "optim/ownership.h"

#include <algorithm>

#include "comm/cuda/memory.h"

namespace conclave {
namespace {

// As in gradient_reduction.cc.
std::int64_t bucket_elements(const cuda::Engine* gpu) {
  return std::int64_t{1} << (gpu != nullptr ? 25 : 20);
}

// Blocks [begin, end) as rows; blocks are numbered unit by unit.
Range rows_of_blocks(const OwnedParameter& owned, Range blocks) {
  if (blocks.size() == 0) return {0, 0};
  const std::int64_t of_unit = owned.blocks_of_unit();
  const std::int64_t last = blocks.end - 1;
  return {owned.block(blocks.begin / of_unit, blocks.begin % of_unit).begin,
          owned.block(last / of_unit, last % of_unit).end};
}

// Of `owned.mine`.
std::vector<Range> trained_rows(const OwnedParameter& owned) {
  std::vector<Range> trained;
  for (std::int64_t unit = 0; unit < owned.units(); ++unit) {
    if (!owned.is_trained(unit)) continue;
    const Range rows{std::max(owned.mine.begin, unit * owned.unit_rows),
                     std::min(owned.mine.end, (unit + 1) * owned.unit_rows)};
    if (rows.size() <= 0) continue;
    if (!trained.empty() && trained.back().end == rows.begin) {
      trained.back().end = rows.end;
    } else {
      trained.push_back(rows);
    }
  }
  return trained;
}

OwnedParameter deal(Parameter& parameter, std::int64_t index, const ProcessGrid& grid, bool sharded) {
  const bool is_expert = parameter.sharding() == Sharding::kExpert;
  const Shape shape = parameter.value().shape();
  const Shape& global_shape = parameter.global_shape();
  OwnedParameter owned;
  owned.parameter = &parameter;
  owned.replicas = is_expert ? &grid.expert_data() : &grid.world();
  owned.columns = shape[shape.rank() - 1];
  const std::int64_t unit_elements = is_expert ? global_shape.row_elements() : global_shape.elements();
  owned.unit_rows = owned.columns == 0 ? 0 : unit_elements / owned.columns;
  owned.block_rows =
      std::max<std::int64_t>(1, Ownership::kBlockElements / std::max<std::int64_t>(1, owned.columns));

  const std::int64_t rows = owned.units() * owned.unit_rows;
  const auto ranks = static_cast<std::int64_t>(owned.replicas->size());
  const std::int64_t blocks = owned.units() * owned.blocks_of_unit();
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    // Parameters of one block go to the ranks in turn.
    const Range dealt = partition(blocks, ranks, (rank + index) % ranks);
    owned.rows_of_rank.push_back(sharded ? rows_of_blocks(owned, dealt) : Range{0, rows});
  }
  owned.mine = owned.rows_of_rank[static_cast<std::size_t>(owned.replicas->rank())];
  owned.trained = trained_rows(owned);
  return owned;
}

// Cuts one parameter into buckets of its own, or adds it to `shared` if it's small.
void add_to_buckets(const OwnedParameter& owned, std::int64_t most, OwnerBucket& shared,
                    std::vector<OwnerBucket>& buckets) {
  const auto ranks = static_cast<std::int64_t>(owned.replicas->size());
  std::int64_t longest = 0;
  for (const Range rows : owned.rows_of_rank) longest = std::max(longest, rows.size());
  if (longest == 0) return;
  const std::int64_t rows_at_once = std::max<std::int64_t>(1, most / (ranks * owned.columns));
  for (std::int64_t done = 0; done < longest; done += rows_at_once) {
    OwnerBucket::Item item{&owned, {}};
    std::int64_t elements = 0;
    for (const Range rows : owned.rows_of_rank) {
      const std::int64_t begin = std::min(rows.begin + done, rows.end);
      item.rows_of_rank.push_back({begin, std::min(begin + rows_at_once, rows.end)});
      elements += item.rows_of_rank.back().size() * owned.columns;
    }
    std::int64_t gathered = 0;
    for (const std::int64_t count : shared.elements_of_rank) gathered += count;
    if (!shared.items.empty() && gathered + elements > most) {
      buckets.push_back(shared);
      shared.items.clear();
      std::ranges::fill(shared.elements_of_rank, 0);
    }
    for (std::size_t rank = 0; rank < item.rows_of_rank.size(); ++rank) {
      shared.elements_of_rank[rank] += item.rows_of_rank[rank].size() * owned.columns;
    }
    shared.items.push_back(std::move(item));
  }
}

}  // namespace

std::int64_t OwnedParameter::units() const {
  return parameter->sharding() == Sharding::kExpert ? parameter->local_rows().size() : 1;
}

Range OwnedParameter::block(std::int64_t unit, std::int64_t block) const {
  const std::int64_t begin = block * block_rows;
  return {unit * unit_rows + begin, unit * unit_rows + std::min(begin + block_rows, unit_rows)};
}

std::int64_t OwnedParameter::first_global_row() const {
  return parameter->sharding() == Sharding::kExpert ? parameter->local_rows().begin * unit_rows : 0;
}

bool OwnedParameter::is_trained(std::int64_t unit) const {
  const std::vector<Range>& ranges = parameter->trained_local_rows();
  if (parameter->sharding() != Sharding::kExpert) return !ranges.empty();
  return std::ranges::any_of(ranges, [&](const Range& units) { return units.contains(unit); });
}

std::span<float> OwnedParameter::elements(TensorView tensor, Range rows) const {
  return tensor.values<float>().subspan(static_cast<std::size_t>(rows.begin * columns),
                                        static_cast<std::size_t>(rows.size() * columns));
}

std::span<const float> OwnedParameter::elements(ConstTensorView tensor, Range rows) const {
  return tensor.values<float>().subspan(static_cast<std::size_t>(rows.begin * columns),
                                        static_cast<std::size_t>(rows.size() * columns));
}

void Ownership::write_due_zeros() const {
  for (const OwnedParameter& owned : parameters_) owned.parameter->gradient();
}

void Ownership::synchronize() const {
  if (gpu_ == nullptr) return;
  write_due_zeros();
  gpu_->stream().synchronize();
}

Buffer Ownership::make_buffer(std::int64_t elements) const {
  return {{elements}, DType::kFloat32, gpu_ != nullptr ? gpu_->device() : Device()};
}

BufferView Ownership::view(std::span<float> elements) const {
  BufferView view = buffer_view(elements);
  if (gpu_ != nullptr) view.device = gpu_->device();
  return view;
}

void Ownership::copy(std::span<const float> from, std::span<float> to) const {
  if (gpu_ != nullptr) {
    cuda::copy(gpu_->stream(), to.data(), from.data(), from.size_bytes());
  } else {
    std::ranges::copy(from, to.begin());
  }
}

Ownership::Ownership(const std::vector<Parameter*>& parameters, const ProcessGrid& grid, bool sharded,
                     cuda::Engine* gpu)
    : sharded_(sharded), grid_(&grid), gpu_(gpu) {
  parameters_.reserve(parameters.size());
  for (Parameter* parameter : parameters) {
    parameters_.push_back(deal(*parameter, static_cast<std::int64_t>(parameters_.size()), grid, sharded));
  }
}

std::vector<OwnerBucket> make_owner_buckets(const Ownership& ownership) {
  std::vector<OwnerBucket> buckets;
  if (!ownership.sharded()) return buckets;
  for (Communicator* group : {&ownership.grid().world(), &ownership.grid().expert_data()}) {
    if (group->size() == 1) continue;
    OwnerBucket shared{group, {}, std::vector<std::int64_t>(static_cast<std::size_t>(group->size()))};
    for (const OwnedParameter& owned : ownership.parameters()) {
      if (owned.replicas == group) add_to_buckets(owned, bucket_elements(ownership.gpu()), shared, buckets);
    }
    if (!shared.items.empty()) buckets.push_back(std::move(shared));
  }
  return buckets;
}

}  // namespace conclave
