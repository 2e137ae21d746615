// Adds up the gradients of all ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optim/ownership.h"

namespace conclave {

// Replicated parameters are summed over the world, experts over the expert-data group. Sums, not means: every
// loss is already divided by the tokens of the global batch. The result is bitwise the same on every rank of
// the group, repeatable, and does not depend on how tensors share buckets. Where state is sharded each rank
// gets the same sums of the rows that it owns (a reduce-scatter), and what other rows hold afterwards is of
// no use.
class GradientReduction {
 public:
  // `ownership` must outlive the object.
  explicit GradientReduction(const Ownership& ownership);

  // Collective over the world; once per optimizer step, when the gradients of all micro-batches are in.
  // Parameters whose gradients are summed exactly have them unfolded.
  void reduce();

 private:
  // What one collective sums: a piece of one large gradient, in place, or several small gradients, packed.
  struct Bucket {
    Communicator* group;
    std::vector<std::span<float>> gradients;
  };
  void plan(const Ownership& ownership, Communicator& group);
  // Exact sums are integers; where state is sharded every rank gets all of them.
  void sum_exactly(const OwnedParameter& owned);
  void sum_on_every_rank(const Bucket& bucket);
  void sum_on_owners(const OwnerBucket& bucket);

  const Ownership* ownership_;
  std::vector<Bucket> buckets_;             // without sharding
  std::vector<OwnerBucket> owner_buckets_;  // with it
  std::vector<float> packed_;               // the bucket under way
  std::vector<float> received_;             // every rank's part of the rows of this one
  std::vector<const void*> sources_;        // where they begin
};

}  // namespace conclave
