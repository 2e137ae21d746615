#include "optim/gradient_reduction.h"

#include <algorithm>
#include <ranges>
#include <utility>

namespace conclave {
namespace {

// Large enough to make latency vanish, small enough that the sums run in cache: 4 MiB. A GPU's memory is as
// fast as a cache, and NCCL takes some ten microseconds for each of the two exchanges of a sum: 128 MiB.
std::size_t bucket_elements(const Ownership& ownership) {
  return std::size_t{1} << (ownership.gpu() != nullptr ? 25 : 20);
}

std::span<float> elements_of(const Buffer& buffer) { return buffer.view().values<float>(); }

std::size_t elements_of(const std::vector<std::span<float>>& gradients) {
  std::size_t elements = 0;
  for (const auto gradient : gradients) elements += gradient.size();
  return elements;
}

}  // namespace

GradientReduction::GradientReduction(const Ownership& ownership, bool overlaps)
    : ownership_(&ownership), overlaps_(overlaps), owner_buckets_(make_owner_buckets(ownership)) {
  if (ownership.sharded()) return;
  plan(ownership, ownership.grid().world());
  plan(ownership, ownership.grid().expert_data());
  for (const Bucket& bucket : buckets_) packed_size_ = std::max(packed_size_, elements_of(bucket.gradients));
  expect_all();
}

// Backwards, as gradients are completed.
void GradientReduction::plan(const Ownership& ownership, Communicator& group) {
  if (group.size() == 1) return;
  const std::size_t most = bucket_elements(ownership);
  Bucket shared{.group = &group};
  const auto end_shared = [&] {
    if (!shared.gradients.empty()) buckets_.push_back(std::move(shared));
    shared = Bucket{.group = &group};
  };
  for (const OwnedParameter& owned : std::views::reverse(ownership.parameters())) {
    if (owned.replicas != &group) continue;
    std::span<float> gradient = owned.parameter->gradient().values<float>();
    while (gradient.size() >= most) {
      buckets_.push_back(
          {.group = &group, .gradients = {gradient.first(most)}, .parameters = {owned.parameter}});
      gradient = gradient.subspan(most);
    }
    if (gradient.empty()) continue;
    if (elements_of(shared.gradients) + gradient.size() > most) end_shared();
    shared.gradients.push_back(gradient);
    shared.parameters.push_back(owned.parameter);
  }
  end_shared();
}

bool GradientReduction::overlaps() const { return overlaps_ && !buckets_.empty() && !sums_exactly(); }

bool GradientReduction::sums_exactly() const {
  return std::ranges::any_of(ownership_->parameters(), [](const OwnedParameter& owned) {
    return owned.parameter->exact_gradient() != nullptr;
  });
}

void GradientReduction::expect_all() {
  for (Bucket& bucket : buckets_) {
    bucket.incomplete = bucket.parameters.size();
    bucket.is_started = false;
  }
}

void GradientReduction::gradients_complete(std::span<Parameter* const> parameters) {
  if (!overlaps()) return;
  for (Parameter* parameter : parameters) parameter->gradient();  // writes zeros that are due
  for (Bucket& bucket : buckets_) {
    for (const Parameter* parameter : parameters) {
      bucket.incomplete -= static_cast<std::size_t>(std::ranges::count(bucket.parameters, parameter));
    }
    if (bucket.incomplete == 0 && !bucket.is_started) start(bucket);
  }
}

void GradientReduction::reduce() {
  ownership_->write_due_zeros();
  if (sums_exactly()) {
    ownership_->synchronize();
    for (const OwnedParameter& owned : ownership_->parameters()) sum_exactly(owned);
    return;
  }
  // Those that are under way were started first, and are waited for in that order.
  for (Bucket& bucket : buckets_) {
    if (bucket.is_started) finish(bucket);
  }
  for (Bucket& bucket : buckets_) {
    if (bucket.is_started) continue;
    start(bucket);
    finish(bucket);
  }
  expect_all();
  for (const OwnerBucket& bucket : owner_buckets_) sum_on_owners(bucket);
}

void GradientReduction::sum_exactly(const OwnedParameter& owned) {
  owned.replicas->all_reduce(buffer_view(owned.parameter->exact_gradient()->integers()));
  owned.parameter->unfold_gradient();
}

std::span<float> GradientReduction::packed_elements(const Bucket& bucket) {
  return elements_of(bucket.packed).first(elements_of(bucket.gradients));
}

void GradientReduction::start(Bucket& bucket) {
  bucket.is_started = true;
  if (bucket.gradients.size() == 1) {
    bucket.sum = bucket.group->all_reduce(ownership_->view(bucket.gradients.front()));
    return;
  }
  if (spare_.empty()) spare_.push_back(ownership_->make_buffer(static_cast<std::int64_t>(packed_size_)));
  bucket.packed = std::move(spare_.back());
  spare_.pop_back();
  std::span<float> packed = packed_elements(bucket);
  for (const auto gradient : bucket.gradients) {
    ownership_->copy(gradient, packed.first(gradient.size()));
    packed = packed.subspan(gradient.size());
  }
  bucket.sum = bucket.group->all_reduce(ownership_->view(packed_elements(bucket)));
}

void GradientReduction::finish(Bucket& bucket) {
  bucket.sum.wait();
  if (bucket.gradients.size() == 1) return;
  std::span<const float> reduced = packed_elements(bucket);
  for (const auto gradient : bucket.gradients) {
    ownership_->copy(reduced.first(gradient.size()), gradient);
    reduced = reduced.subspan(gradient.size());
  }
  spare_.push_back(std::move(bucket.packed));
}

// Blocks are as long as the longest: what lies behind the others is added up too, and read by nobody.
void GradientReduction::sum_on_owners(const OwnerBucket& bucket) {
  Communicator& group = *bucket.group;
  const auto block = static_cast<std::size_t>(std::ranges::max(bucket.elements_of_rank));
  const std::size_t all = block * static_cast<std::size_t>(group.size());
  if (elements_of(packed_).size() < all) packed_ = ownership_->make_buffer(static_cast<std::int64_t>(all));
  if (elements_of(sum_).size() < block) sum_ = ownership_->make_buffer(static_cast<std::int64_t>(block));
  const std::span<float> packed = elements_of(packed_).first(all);
  const std::span<float> sum = elements_of(sum_).first(block);
  for (int rank = 0; rank < group.size(); ++rank) {
    std::span<float> rest = packed.subspan(static_cast<std::size_t>(rank) * block, block);
    bucket.for_each(rank, [&](const OwnedParameter& owned, Range rows) {
      const std::span<const float> gradient = owned.elements(owned.parameter->gradient(), rows);
      ownership_->copy(gradient, rest.first(gradient.size()));
      rest = rest.subspan(gradient.size());
    });
  }
  group.reduce_scatter(ownership_->view(packed), ownership_->view(sum));
  std::span<const float> rest = sum;
  bucket.for_each(group.rank(), [&](const OwnedParameter& owned, Range rows) {
    const std::span<float> gradient = owned.elements(owned.parameter->gradient(), rows);
    ownership_->copy(rest.first(gradient.size()), gradient);
    rest = rest.subspan(gradient.size());
  });
}

}  // namespace conclave
