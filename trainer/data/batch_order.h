// Which global batch a step trains on: the next that has not been left out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::data {

// Global batch b holds the samples [b G, (b + 1) G) of the run, G = train.global_batch. Without batches that
// are left out, step s trains on batch s.
class BatchOrder {
 public:
  // A function of the step and the batches that are left out: nothing else, so that a resumed run, which
  // reads them from the checkpoint, goes on in the same order.
  std::int64_t batch_of(std::int64_t step) const;

  // `batch` must not be left out yet.
  void leave_out(std::int64_t batch);
  // How many batches in a row, right before `batch`, are left out.
  std::int64_t left_out_before(std::int64_t batch) const;

  // Ascending.
  std::span<const std::int64_t> left_out() const { return left_out_; }
  void restore(std::span<const std::int64_t> left_out) { left_out_.assign(left_out.begin(), left_out.end()); }

 private:
  std::vector<std::int64_t> left_out_;
};

}  // namespace conclave::data
