#include "optim/gradient_reduction.h"

#include <algorithm>

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

GradientReduction::GradientReduction(const Ownership& ownership)
    : ownership_(&ownership), owner_buckets_(make_owner_buckets(ownership)) {
  if (ownership.sharded()) return;
  plan(ownership, ownership.grid().world());
  plan(ownership, ownership.grid().expert_data());

  std::size_t largest = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.gradients.size() > 1) largest = std::max(largest, elements_of(bucket.gradients));
  }
  packed_.resize(largest);
}

void GradientReduction::plan(const Ownership& ownership, Communicator& group) {
  if (group.size() == 1) return;
  Bucket shared{&group, {}};
  for (const OwnedParameter& owned : ownership.parameters()) {
    if (owned.replicas != &group) continue;
    std::span<float> gradient = owned.parameter->gradient().values<float>();
    while (gradient.size() >= kBucketElements) {
      buckets_.push_back({&group, {gradient.first(kBucketElements)}});
      gradient = gradient.subspan(kBucketElements);
    }
    if (gradient.empty()) continue;
    if (elements_of(shared.gradients) + gradient.size() > kBucketElements) {
      buckets_.push_back(std::move(shared));
      shared = {&group, {}};
    }
    shared.gradients.push_back(gradient);
  }
  if (!shared.gradients.empty()) buckets_.push_back(std::move(shared));
}

void GradientReduction::reduce() {
  const bool is_exact = std::ranges::any_of(ownership_->parameters(), [](const OwnedParameter& owned) {
    return owned.parameter->exact_gradient() != nullptr;
  });
  if (is_exact) {
    for (const OwnedParameter& owned : ownership_->parameters()) sum_exactly(owned);
    return;
  }
  for (const Bucket& bucket : buckets_) sum_on_every_rank(bucket);
  for (const OwnerBucket& bucket : owner_buckets_) sum_on_owners(bucket);
}

void GradientReduction::sum_exactly(const OwnedParameter& owned) {
  owned.replicas->all_reduce(buffer_view(owned.parameter->exact_gradient()->integers()));
  owned.parameter->unfold_gradient();
}

void GradientReduction::sum_on_every_rank(const Bucket& bucket) {
  if (bucket.gradients.size() == 1) {
    bucket.group->all_reduce(buffer_view(bucket.gradients.front()));
    return;
  }
  auto packed = packed_.begin();
  for (const auto gradient : bucket.gradients) packed = std::ranges::copy(gradient, packed).out;
  bucket.group->all_reduce(buffer_view(std::span(packed_.begin(), packed)));
  auto reduced = packed_.cbegin();
  for (const auto gradient : bucket.gradients) {
    std::copy_n(reduced, gradient.size(), gradient.begin());
    reduced += static_cast<std::ptrdiff_t>(gradient.size());
  }
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
  const std::vector<std::int64_t> mine_of_each(static_cast<std::size_t>(group.size()), mine);
  group.all_to_all_v(buffer_view(std::span<const float>(packed_)), bucket.elements_of_rank,
                     buffer_view(std::span(received_)), mine_of_each);

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
