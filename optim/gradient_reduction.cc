#include "optim/gradient_reduction.h"

#include <algorithm>

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

GradientReduction::GradientReduction(const std::vector<Parameter*>& parameters, const ProcessGrid& grid) {
  plan(parameters, Sharding::kReplicated, grid.world());
  plan(parameters, Sharding::kExpert, grid.expert_data());

  std::size_t largest = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.gradients.size() > 1) largest = std::max(largest, elements_of(bucket.gradients));
  }
  packed_.resize(largest);
}

void GradientReduction::plan(const std::vector<Parameter*>& parameters, Sharding sharding,
                             Communicator& group) {
  if (group.size() == 1) return;
  Bucket shared{&group, {}};
  for (const Parameter* parameter : parameters) {
    if (parameter->sharding() != sharding) continue;
    std::span<float> gradient = parameter->gradient().values<float>();
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
  for (const Bucket& bucket : buckets_) {
    if (bucket.gradients.size() == 1) {
      bucket.group->all_reduce(buffer_view(bucket.gradients.front()));
      continue;
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
}

}  // namespace conclave
