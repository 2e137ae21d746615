// The last part of a sharded update: every rank takes the new values of the rows that others own.
#pragma once

#include <vector>

#include "optim/ownership.h"

namespace conclave {

class ValueGather {
 public:
  // `ownership` must outlive the object.
  explicit ValueGather(const Ownership& ownership);

  // Collective over the world; once after each update. Afterwards the values of every parameter are the same
  // on all ranks that hold it. Without sharding there is nothing to do.
  void gather();

 private:
  const Ownership* ownership_;
  std::vector<OwnerBucket> buckets_;
  Buffer gathered_;  // the bucket under way: one block a rank, each as long as the longest
};

}  // namespace conclave
