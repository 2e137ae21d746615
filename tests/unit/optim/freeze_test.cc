#include "optim/freeze.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/base/error.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class FreezeTest : public testing::Test {
 protected:
  // Rank 1 of 2.
  Parameter embedding{"embedding.weight", Shape{10, 4}};
  Parameter router{"layers.0.moe.router.weight", Shape{6, 4}};
  Parameter up{"layers.0.moe.experts.gate_up", Shape{6, 8, 4}, Range{3, 6}};
  Parameter down{"layers.0.moe.experts.down", Shape{6, 4, 4}, Range{3, 6}};
  std::vector<Parameter*> parameters{&embedding, &router, &up, &down};

  void apply(const std::vector<std::string>& patterns) { freeze(patterns, parameters); }
  std::string fault(const std::vector<std::string>& patterns) {
    try {
      apply(patterns);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(FreezeTest, NothingIsFrozenByDefault) {
  apply({});
  EXPECT_EQ(frozen_elements(parameters), 0);
  EXPECT_THAT(embedding.trained_local_rows(), ElementsAre(Range{0, 10}));
  EXPECT_THAT(up.trained_global_rows(), ElementsAre(Range{0, 6}));
  EXPECT_THAT(up.trained_local_rows(), ElementsAre(Range{0, 3}));
}

TEST_F(FreezeTest, WildcardsMatchWholeNames) {
  apply({"layers.?.moe.experts.*", "embedding*"});
  EXPECT_THAT(embedding.trained_local_rows(), IsEmpty());
  EXPECT_THAT(up.trained_global_rows(), IsEmpty());
  EXPECT_THAT(down.trained_local_rows(), IsEmpty());
  EXPECT_THAT(router.trained_local_rows(), ElementsAre(Range{0, 6}));
  EXPECT_EQ(frozen_elements(parameters), 40 + 6 * 32 + 6 * 16);
}

TEST_F(FreezeTest, ChosenExpertsByTheirGlobalIds) {
  apply({"layers.*.moe.experts.*[0-1,4]", "*.down[5]"});
  EXPECT_THAT(up.trained_global_rows(), ElementsAre(Range{2, 4}, Range{5, 6}));
  EXPECT_THAT(up.trained_local_rows(), ElementsAre(Range{0, 1}, Range{2, 3}));
  EXPECT_THAT(down.trained_global_rows(), ElementsAre(Range{2, 4}));
  EXPECT_THAT(down.trained_local_rows(), ElementsAre(Range{0, 1}));
  EXPECT_EQ(frozen_elements(parameters), 3 * 32 + 4 * 16);
}

TEST_F(FreezeTest, IdsLeaveReplicatedParametersAlone) {
  apply({"*[0]"});
  EXPECT_THAT(router.trained_local_rows(), ElementsAre(Range{0, 6}));
  EXPECT_THAT(up.trained_global_rows(), ElementsAre(Range{1, 6}));
}

TEST_F(FreezeTest, APatternThatMatchesNothingNamesTheClosest) {
  EXPECT_EQ(fault({"layers.*.moe.ruoter.weight"}),
            "train.freeze: \"layers.*.moe.ruoter.weight\" matches no parameter; did you mean "
            "layers.0.moe.router.weight, layers.0.moe.experts.down or layers.0.moe.experts.gate_up?");
  EXPECT_THAT(fault({"embedding.weight[0]"}), HasSubstr("matches no parameter of experts"));
}

TEST_F(FreezeTest, IdsMustExistAndBeNumbers) {
  EXPECT_THAT(fault({"*.down[4-6]"}), HasSubstr("names expert 6, and the experts there are 0 to 5"));
  EXPECT_THAT(fault({"*.down[a]"}), HasSubstr("\"a\" where an expert's id should stand"));
  EXPECT_THAT(fault({"*.down[]"}), HasSubstr("where an expert's id should stand"));
  EXPECT_THAT(fault({"*.down[3-1]"}), HasSubstr("runs backwards"));
}

TEST_F(FreezeTest, SomethingMustBeLeft) {
  EXPECT_THAT(fault({"*"}), HasSubstr("leaves nothing to train"));
  EXPECT_THAT(fault({"embedding*", "*router*", "*experts*[0-5]"}), HasSubstr("leaves nothing to train"));
}

TEST(DistanceToMatch, IsZeroForMatchesOnly) {
  EXPECT_EQ(distance_to_match("*", ""), 0u);
  EXPECT_EQ(distance_to_match("a*c", "abbc"), 0u);
  EXPECT_EQ(distance_to_match("a*c*", "acc"), 0u);
  EXPECT_EQ(distance_to_match("a?c", "ac"), 1u);
  EXPECT_EQ(distance_to_match("", "abc"), 3u);
  EXPECT_EQ(distance_to_match("a.b", "aXb"), 1u);
  EXPECT_EQ(distance_to_match("**", "abc"), 0u);
}

}  // namespace
}  // namespace conclave
