#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "trainer/data/batch_order.h"

namespace conclave::data {
namespace {

// Counting through all batches, leaving some out.
std::vector<std::int64_t> expected_order(const std::set<std::int64_t>& left_out, std::size_t steps) {
  std::vector<std::int64_t> batches;
  for (std::int64_t batch = 0; batches.size() < steps; ++batch) {
    if (!left_out.contains(batch)) batches.push_back(batch);
  }
  return batches;
}

TEST(BatchOrder, LeavesOutWhatItIsTold) {
  const std::vector<std::vector<std::int64_t>> cases = {
      {}, {0}, {5}, {5, 6, 7}, {7, 5, 6}, {0, 1, 19}, {3, 11, 4, 12, 13, 0}};
  for (const auto& left_out : cases) {
    BatchOrder order;
    for (const std::int64_t batch : left_out) order.leave_out(batch);
    const auto expected = expected_order({left_out.begin(), left_out.end()}, 20);
    for (std::size_t step = 0; step < expected.size(); ++step) {
      EXPECT_EQ(order.batch_of(static_cast<std::int64_t>(step)), expected[step]);
    }
    BatchOrder restored;
    restored.restore(order.left_out());
    EXPECT_EQ(restored.batch_of(17), order.batch_of(17));
  }
}

TEST(BatchOrder, CountsHowManyInARowAreLeftOut) {
  BatchOrder order;
  EXPECT_EQ(order.left_out_before(0), 0);
  for (const std::int64_t batch : {2, 5, 6}) order.leave_out(batch);
  EXPECT_EQ(order.left_out_before(2), 0);
  EXPECT_EQ(order.left_out_before(3), 1);
  EXPECT_EQ(order.left_out_before(4), 0);
  EXPECT_EQ(order.left_out_before(7), 2);
}

}  // namespace
}  // namespace conclave::data
