#include "trainer/data/batch_order.h"

#include <algorithm>

namespace conclave::data {

std::int64_t BatchOrder::batch_of(std::int64_t step) const {
  std::int64_t batch = step;
  for (const std::int64_t left_out : left_out_) {
    if (left_out > batch) break;
    ++batch;
  }
  return batch;
}

void BatchOrder::leave_out(std::int64_t batch) {
  left_out_.insert(std::ranges::lower_bound(left_out_, batch), batch);
}

std::int64_t BatchOrder::left_out_before(std::int64_t batch) const {
  std::int64_t count = 0;
  while (std::ranges::binary_search(left_out_, batch - count - 1)) ++count;
  return count;
}

}  // namespace conclave::data
