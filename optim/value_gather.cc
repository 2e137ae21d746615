#include "optim/value_gather.h"

#include <algorithm>

namespace conclave {

ValueGather::ValueGather(const Ownership& ownership)
    : ownership_(&ownership), buckets_(make_owner_buckets(ownership)) {}

void ValueGather::gather() {
  for (const OwnerBucket& bucket : buckets_) {
    const int own_rank = bucket.group->rank();
    const auto block = static_cast<std::size_t>(std::ranges::max(bucket.elements_of_rank));
    const std::size_t all = block * static_cast<std::size_t>(bucket.group->size());
    if (gathered_.view().values<float>().size() < all)
      gathered_ = ownership_->make_buffer(static_cast<std::int64_t>(all));
    const std::span<float> gathered = gathered_.view().values<float>().first(all);
    const auto block_of = [&](int rank) {
      return gathered.subspan(static_cast<std::size_t>(rank) * block, block);
    };
    std::span<float> rest = block_of(own_rank);
    bucket.for_each(own_rank, [&](const OwnedParameter& owned, Range rows) {
      const std::span<const float> values = owned.elements(owned.parameter->value(), rows);
      ownership_->copy(values, rest.first(values.size()));
      rest = rest.subspan(values.size());
    });
    bucket.group->all_gather(ownership_->view(block_of(own_rank)), ownership_->view(gathered));

    for (int rank = 0; rank < bucket.group->size(); ++rank) {
      if (rank == own_rank) continue;
      std::span<const float> from = block_of(rank);
      bucket.for_each(rank, [&](const OwnedParameter& owned, Range rows) {
        const std::span<float> values = owned.elements(owned.parameter->mutable_value(), rows);
        ownership_->copy(from.first(values.size()), values);
        from = from.subspan(values.size());
      });
    }
  }
}

}  // namespace conclave
