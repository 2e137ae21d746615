#include "comm/process_grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "comm/base/error.h"
#include "comm/self/self_communicator.h"

namespace conclave {
namespace {

using testing::HasSubstr;

TEST(ProcessGrid, OneRankHoldsAllExperts) {
  const auto world = make_self_communicator();
  const ProcessGrid grid(*world, 1);
  EXPECT_EQ(&grid.world(), world.get());
  EXPECT_EQ(grid.expert_parallel().size(), 1);
  EXPECT_EQ(grid.expert_data().size(), 1);
  EXPECT_EQ(grid.local_experts(5), (Range{0, 5}));
  EXPECT_EQ(grid.local_experts(0), (Range{0, 0}));
  EXPECT_THAT(grid.describe(5), testing::AllOf(HasSubstr("ranks: 1 = expert_parallel 1 x expert_data 1"),
                                               HasSubstr("0-4 (5)")));
  EXPECT_THAT(grid.describe(0), HasSubstr("none"));
}

TEST(ProcessGrid, ASizeThatDoesNotDivideTheRanksIsRefusedWithThoseThatDo) {
  const auto world = make_self_communicator();
  for (const int bad : {-1, 0, 2}) {
    try {
      const ProcessGrid grid(*world, bad);
      ADD_FAILURE() << bad << " was accepted";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(HasSubstr("parallel.expert_parallel_size is " + std::to_string(bad)),
                                 HasSubstr("use one of 1")));
      EXPECT_EQ(error.exit_code(), ExitCode::kConfiguration);
    }
  }
}

TEST(ProcessGrid, AutomaticExpertParallelSize) {
  EXPECT_EQ(automatic_expert_parallel_size(1, 8), 1);
  EXPECT_EQ(automatic_expert_parallel_size(4, 0), 1);  // a dense model
  EXPECT_EQ(automatic_expert_parallel_size(4, 16), 4);
  EXPECT_EQ(automatic_expert_parallel_size(12, 8), 6);
  EXPECT_EQ(automatic_expert_parallel_size(7, 6), 1);
  EXPECT_EQ(automatic_expert_parallel_size(6, 6), 6);
}

}  // namespace
}  // namespace conclave
