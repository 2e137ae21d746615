#include "comm/base/partition.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(Partition, CoversEverythingOnceInOrderWithSizesThatDifferByAtMostOne) {
  for (const std::int64_t total : {0, 1, 2, 7, 12, 128, 1001}) {
    for (std::int64_t parts = 1; parts <= 13; ++parts) {
      std::int64_t next = 0;
      for (std::int64_t part = 0; part < parts; ++part) {
        const Range range = partition(total, parts, part);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), total / parts);
        EXPECT_LE(range.size(), (total + parts - 1) / parts);
        next = range.end;
      }
      EXPECT_EQ(next, total);
    }
  }
}

TEST(Partition, FirstPartsAreTheLargerOnes) {
  EXPECT_EQ(partition(10, 4, 0), (Range{0, 3}));
  EXPECT_EQ(partition(10, 4, 1), (Range{3, 6}));
  EXPECT_EQ(partition(10, 4, 2), (Range{6, 8}));
  EXPECT_EQ(partition(10, 4, 3), (Range{8, 10}));
  EXPECT_EQ(partition(2, 3, 2).size(), 0);
}

TEST(Range, ContainsItsBeginAndNotItsEnd) {
  const Range range{3, 6};
  EXPECT_FALSE(range.contains(2));
  EXPECT_TRUE(range.contains(3));
  EXPECT_TRUE(range.contains(5));
  EXPECT_FALSE(range.contains(6));
}

}  // namespace
}  // namespace conclave
