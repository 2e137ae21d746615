#include "optim/value_gather.h"

#include <algorithm>

namespace conclave {

ValueGather::ValueGather(const Ownership& ownership)
    : ownership_(&ownership), buckets_(make_owner_buckets(ownership)) {}

void ValueGather::gather() {
  if (!buckets_.empty()) ownership_->synchronize();
  for (const OwnerBucket& bucket : buckets_) {
    const auto block = static_cast<std::size_t>(std::ranges::max(bucket.elements_of_rank));
    gathered_.resize(block * static_cast<std::size_t>(bucket.group->size()));
    const auto block_of = [&](int rank) {
      return std::span(gathered_).subspan(static_cast<std::size_t>(rank) * block, block);
    };
    const std::span<float> own = block_of(bucket.group->rank());
    auto out = own.begin();
    bucket.for_each(bucket.group->rank(), [&](const OwnedParameter& owned, Range rows) {
      out = std::ranges::copy(owned.elements(owned.parameter->value(), rows), out).out;
    });
    std::fill(out, own.end(), 0.0F);
    bucket.group->all_gather(buffer_view(std::span<const float>(own)), buffer_view(std::span(gathered_)));

    for (int rank = 0; rank < bucket.group->size(); ++rank) {
      if (rank == bucket.group->rank()) continue;
      auto in = block_of(rank).begin();
      bucket.for_each(rank, [&](const OwnedParameter& owned, Range rows) {
        const std::span<float> values = owned.elements(owned.parameter->mutable_value(), rows);
        std::copy_n(in, values.size(), values.begin());
        in += static_cast<std::ptrdiff_t>(values.size());
      });
    }
  }
}

}  // namespace conclave
