#include "optim/gradient_reduction.h"

#include <algorithm>
#include <ranges>
#include <utility>

#include "comm/ordered_reduction.h"

namespace conclave {
namespace {

// Large enough to make latency vanish, small enough that the sums run in cache.
constexpr std::size_t kBucketElements = std::size_t{1} << 20;  // 4 MiB

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
  expect_all();
}

// Backwards, as gradients are completed.
void GradientReduction::plan(const Ownership& ownership, Communicator& group) {
  if (group.size() == 1) return;
  Bucket shared{.group = &group};
  const auto end_shared = [&] {
    if (!shared.gradients.empty()) buckets_.push_back(std::move(shared));
    shared = Bucket{.group = &group};
  };
  for (const OwnedParameter& owned : std::views::reverse(ownership.parameters())) {
    if (owned.replicas != &group) continue;
    std::span<float> gradient = owned.parameter->gradient().values<float>();
    while (gradient.size() >= kBucketElements) {
      buckets_.push_back(
          {.group = &group, .gradients = {gradient.first(kBucketElements)}, .parameters = {owned.parameter}});
      gradient = gradient.subspan(kBucketElements);
    }
    if (gradient.empty()) continue;
    if (elements_of(shared.gradients) + gradient.size() > kBucketElements) end_shared();
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
  ownership_->synchronize();
  for (Bucket& bucket : buckets_) {
    for (const Parameter* parameter : parameters) {
      bucket.incomplete -= static_cast<std::size_t>(std::ranges::count(bucket.parameters, parameter));
    }
    if (bucket.incomplete == 0 && !bucket.is_started) start(bucket);
  }
}

void GradientReduction::reduce() {
  ownership_->synchronize();
  if (sums_exactly()) {
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

void GradientReduction::start(Bucket& bucket) {
  bucket.is_started = true;
  if (bucket.gradients.size() == 1) {
    bucket.sum = bucket.group->all_reduce(buffer_view(bucket.gradients.front()));
    return;
  }
  if (!spare_.empty()) {
    bucket.packed = std::move(spare_.back());
    spare_.pop_back();
  }
  bucket.packed.resize(elements_of(bucket.gradients));
  auto packed = bucket.packed.begin();
  for (const auto gradient : bucket.gradients) packed = std::ranges::copy(gradient, packed).out;
  bucket.sum = bucket.group->all_reduce(buffer_view(std::span(bucket.packed)));
}

void GradientReduction::finish(Bucket& bucket) {
  bucket.sum.wait();
  if (bucket.gradients.size() == 1) return;
  auto reduced = bucket.packed.cbegin();
  for (const auto gradient : bucket.gradients) {
    std::copy_n(reduced, gradient.size(), gradient.begin());
    reduced += static_cast<std::ptrdiff_t>(gradient.size());
  }
  spare_.push_back(std::move(bucket.packed));
}

void GradientReduction::sum_on_owners(const OwnerBucket& bucket) {
  Communicator& group = *bucket.group;
  packed_.clear();
  for (int rank = 0; rank < group.size(); ++rank) {
    bucket.for_each(rank, [&](const OwnedParameter& owned, Range rows) {
      const std::span<const float> gradient = owned.elements(owned.parameter->gradient(), rows);
      packed_.insert(packed_.end(), gradient.begin(), gradient.end());
    });
  }
  const std::int64_t mine = bucket.elements_of_rank[static_cast<std::size_t>(group.rank())];
  received_.resize(static_cast<std::size_t>(mine * group.size()));
  mine_of_each_.assign(static_cast<std::size_t>(group.size()), mine);
  group.all_to_all_v(buffer_view(std::span<const float>(packed_)), bucket.elements_of_rank,
                     buffer_view(std::span(received_)), mine_of_each_);

  sources_.clear();
  for (int rank = 0; rank < group.size(); ++rank) sources_.push_back(received_.data() + rank * mine);
  reduce_in_order(sources_, received_.data(), mine, DType::kFloat32, ReduceOp::kSum);
  auto reduced = received_.cbegin();
  bucket.for_each(group.rank(), [&](const OwnedParameter& owned, Range rows) {
    const std::span<float> gradient = owned.elements(owned.parameter->gradient(), rows);
    std::copy_n(reduced, gradient.size(), gradient.begin());
    reduced += static_cast<std::ptrdiff_t>(gradient.size());
  });
}

}  // namespace conclave
