// Adds up the gradients of all ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layers/context.h"
#include "optim/ownership.h"

namespace conclave {

// Replicated parameters are summed over the world, experts over the expert-data group. Sums, not means: every
// loss is already divided by the tokens of the global batch. The result is bitwise the same on every rank of
// the group, repeatable, and does not depend on how tensors share buckets. Where state is sharded each rank
// gets the same sums of the rows that it owns (a reduce-scatter), and what other rows hold afterwards is of
// no use.
//
// Where it overlaps, the sum of a bucket starts as soon as gradients_complete() has named all of its
// parameters, while backward goes on, and reduce() waits for it. Every rank names the same parameters in the
// same order. Exact sums and sharded state are added up in reduce() alone.
class GradientReduction : public GradientListener {
 public:
  // `ownership` must outlive the object.
  explicit GradientReduction(const Ownership& ownership, bool overlaps = false);

  void gradients_complete(std::span<Parameter* const> parameters) override;

  // Collective over the world; once per optimizer step, when the gradients of all micro-batches are in.
  // Parameters whose gradients are summed exactly have them unfolded.
  void reduce();

  // True where sums start during backward.
  bool overlaps() const;

 private:
  // What one collective sums: a piece of one large gradient, in place, or several small gradients, packed.
  struct Bucket {
    Communicator* group = nullptr;
    std::vector<std::span<float>> gradients = {};
    std::vector<const Parameter*> parameters = {};  // whose gradients these are
    std::size_t incomplete = 0;                     // of them, in this step
    Buffer packed = {};                             // of several gradients, while their sum is under way
    bool is_started = false;
    Work sum = {};
  };
  void plan(const Ownership& ownership, Communicator& group);
  // Exact sums are integers; where state is sharded every rank gets all of them.
  void sum_exactly(const OwnedParameter& owned);
  bool sums_exactly() const;
  // Begins a new step.
  void expect_all();
  void start(Bucket& bucket);
  void finish(Bucket& bucket);
  void sum_on_owners(const OwnerBucket& bucket);
  // The elements of a bucket of several gradients.
  static std::span<float> packed_elements(const Bucket& bucket);

  const Ownership* ownership_;
  bool overlaps_;
  std::vector<Bucket> buckets_;             // without sharding; the last layer's first
  std::vector<OwnerBucket> owner_buckets_;  // with it
  std::size_t packed_size_ = 0;             // of the largest bucket of several gradients
  std::vector<Buffer> spare_;               // memory of that size
  Buffer packed_;  // the owner bucket under way: a block for each rank, all equally long
  Buffer sum_;     // of the block of this rank
};

}  // namespace conclave
