// One trainable tensor: value, gradient, global name, and how it is spread over ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/cuda/stream.h"
#include "layers/tensor/arena.h"
#include "layers/tensor/exact_sum.h"
#include "layers/tensor/sharded_tensor.h"

namespace conclave {

// Keeps copies of a parameter's value in another format, and can renew them row by row while an update has
// the rows in the cache.
class ValueFollower {
 public:
  virtual ~ValueFollower() = default;
  // Before the value changes. True: the copies are of the present value, and follow() shall be told of each
  // row that changes.
  virtual bool begin_update() = 0;
  // Rows of the local value seen as a matrix [M, N], N its last extent, that have changed: at most
  // kRowsAtOnce of one expert, from a multiple of it on. Several threads may call at once.
  static constexpr std::int64_t kRowsAtOnce = 32;
  virtual void follow(Range rows) = 0;
  // All rows that changed were followed: the copies are of the new value.
  virtual void end_update() = 0;
};

class Parameter {
 public:
  // Replicated: every rank holds the whole of `shape`.
  Parameter(std::string name, Shape shape);
  // Expert: `global_shape` is [E, ...]; this rank holds the experts `local_experts`.
  Parameter(std::string name, Shape global_shape, Range local_experts);

  // Fills the value with N(0, standard_deviation^2) drawn by (seed, name, global expert id, element): the
  // same in every layout.
  void initialise_normal(std::uint64_t seed, double standard_deviation);
  void initialise_constant(float value);
  // Value and gradient move to the memory of the stream's GPU; views of before are of no use any more.
  // `stream` must outlive the parameter: zeros are written in its order.
  void move_to(const cuda::Stream& stream);
  // From now on the gradient is zero. The zeros are written when somebody asks for them; never, where the
  // next gradient replaces them whole (gradient_target).
  void zero_gradient();

  // run.determinism: cross_layout. From now on the gradient is a sum over logical shards of the global batch
  // that doesn't depend on their order: backward computes the gradient of one shard, fold_gradient() adds it
  // to the sum and zeroes it; after the reduction over ranks unfold_gradient() makes the sum the gradient.
  void sum_gradients_exactly() { exact_gradient_.emplace(gradient_.view().elements()); }
  // Does nothing where gradients aren't summed exactly. On a GPU both wait for what was enqueued before.
  void fold_gradient();
  void unfold_gradient();
  // Null where gradients aren't summed exactly.
  ExactSum* exact_gradient() { return exact_gradient_ ? &*exact_gradient_ : nullptr; }

  const std::string& name() const { return name_; }
  Sharding sharding() const { return sharding_; }
  const Shape& global_shape() const { return global_shape_; }
  Range local_rows() const { return local_rows_; }
  ConstTensorView value() const { return value_.view(); }  // fp32, local shape
  TensorView gradient() const;                             // fp32, local shape; backward adds to it
  // The gradient for an operator that computes all of its elements: to be added to, or, where it is zero, to
  // be assigned.
  struct GradientTarget {
    TensorView gradient;
    bool accumulate = true;
  };
  GradientTarget gradient_target();
  // The gradient is zero, but not written yet. Who replays the work of a backward, in place of running it,
  // says that it has written it.
  bool zeros_are_due() const { return zeros_are_due_; }
  void gradient_was_written() { zeros_are_due_ = false; }

  // To change the value. The view is for this change: who changes it again later asks again, since copies of
  // the value in other formats are made anew when version() has moved.
  TensorView mutable_value() {
    ++version_;
    return value_.view();
  }
  std::uint64_t version() const { return version_; }
  // Who updates may, not must, let them follow. They must live as long as the value is updated.
  void add_follower(ValueFollower& follower) { followers_.push_back(&follower); }
  const std::vector<ValueFollower*>& followers() const { return followers_; }

  // Takes experts (rows of dimension 0, by global id) out of training, or the whole of a replicated parameter
  // (all of its rows): the optimizer leaves them and their state alone, and their gradients count in no norm.
  void freeze_rows(Range global_rows);
  // The rows that are trained, all unless some were frozen, as ascending ranges: of the global tensor, and of
  // what this rank holds, counted from its first row.
  const std::vector<Range>& trained_global_rows() const { return trained_global_rows_; }
  const std::vector<Range>& trained_local_rows() const { return trained_local_rows_; }

  // Weight decay applies to it. False for norms, and for embeddings by option.
  bool decays = true;
  // The value as a piece of the global tensor `name()`; may be changed through it, as through
  // mutable_value().
  ShardedTensor sharded() { return {name_, global_shape_, sharding_, local_rows_, mutable_value()}; }

 private:
  std::string name_;
  Sharding sharding_;
  Shape global_shape_;
  Range local_rows_;
  std::vector<Range> trained_global_rows_;
  std::vector<Range> trained_local_rows_;
  Buffer value_;
  std::uint64_t version_ = 0;
  std::vector<ValueFollower*> followers_;
  Buffer gradient_;
  const cuda::Stream* stream_ = nullptr;  // of the GPU that holds them; null: the host does
  mutable bool zeros_are_due_ = false;    // zero_gradient() was called, the zeros aren't written yet
  std::optional<ExactSum> exact_gradient_;
};

}  // namespace conclave
