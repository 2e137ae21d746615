// A small model's tensors for the checkpoint tests: every element says which tensor and which
// global position it is.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "layers/tensor/sharded_tensor.h"

namespace conclave::test {

class CheckpointTensors {
 public:
  // Two replicated matrices, a scalar counter and two expert tensors of `experts` experts, of which this
  // rank has `local_experts`.
  CheckpointTensors(std::int64_t experts, Range local_experts) {
    add("embedding", {13, 5}, Sharding::kReplicated, {0, 13});
    add("layers.0.norm", {5}, Sharding::kReplicated, {0, 5});
    add("temperature", {}, Sharding::kReplicated, {0, 1});
    add("layers.0.moe.experts.down", {experts, 3, 2}, Sharding::kExpert, local_experts);
    add("adamw.m/layers.0.moe.experts.down", {experts, 3, 2}, Sharding::kExpert, local_experts);
  }

  const std::vector<ShardedTensor>& tensors() const { return tensors_; }

  // Element i of tensor n (i counts over all rows of the global tensor) becomes 1000 n + i + offset.
  void fill(float offset) {
    for (std::size_t n = 0; n < tensors_.size(); ++n) {
      for (std::size_t i = 0; i < values_[n].size(); ++i) values_[n][i] = expected(n, i, offset);
    }
  }
  void clear() {
    for (auto& values : values_) values.assign(values.size(), -1.0F);
  }
  // True if every element is as fill(offset) would leave it.
  bool is_filled(float offset) const {
    for (std::size_t n = 0; n < tensors_.size(); ++n) {
      for (std::size_t i = 0; i < values_[n].size(); ++i) {
        if (values_[n][i] != expected(n, i, offset)) return false;
      }
    }
    return true;
  }

 private:
  void add(const std::string& name, Shape shape, Sharding sharding, Range rows) {
    const bool whole = sharding == Sharding::kReplicated;
    const Shape local = whole ? shape : shape.with_rows(rows.size());
    values_.emplace_back(static_cast<std::size_t>(local.elements()));
    tensors_.push_back({name, shape, sharding, rows, tensor_view(std::span(values_.back()), local)});
  }
  float expected(std::size_t n, std::size_t i, float offset) const {
    const ShardedTensor& tensor = tensors_[n];
    const bool whole = tensor.sharding == Sharding::kReplicated;
    const std::int64_t first = whole ? 0 : tensor.local_rows.begin * tensor.global_shape.row_elements();
    return 1000.0F * static_cast<float>(n) + static_cast<float>(first) + static_cast<float>(i) + offset;
  }

  std::deque<std::vector<float>> values_;
  std::vector<ShardedTensor> tensors_;
};

}  // namespace conclave::test
