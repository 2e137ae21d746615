#include "layers/parameter.h"

#include "tests/support/operator_test.h"

namespace conclave {
namespace {

using namespace test;

constexpr std::int64_t kExperts = 7;
const Shape kShape{kExperts, 3, 5};

// Every way of dealing seven experts to ranks gives each expert the same values.
TEST(Parameter, InitialisationDoesNotDependOnTheLayout) {
  Parameter whole("layers.0.moe.experts.down", kShape, {0, kExperts});
  whole.initialise_normal(42, 0.5);
  for (const std::int64_t ranks : {2, 3, 7, 9}) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const Range experts = partition(kExperts, ranks, rank);
      Parameter shard("layers.0.moe.experts.down", kShape, experts);
      shard.initialise_normal(42, 0.5);
      EXPECT_EQ(copy_of(shard.value()), copy_of(whole.value().rows(experts.begin, experts.end)));
    }
  }
}

TEST(Parameter, InitialisationDoesNotDependOnTheNumberOfThreads) {
  const auto values = [](int threads) {
    const ThreadCount scope(threads);
    Parameter parameter("weight", {31, 7});
    parameter.initialise_normal(1, 1.0);
    return copy_of(parameter.value());
  };
  EXPECT_EQ(values(1), values(3));
}

TEST(Parameter, ExpertsNamesAndSeedsDiffer) {
  const auto values = [](const std::string& name, std::uint64_t seed, Range experts) {
    Parameter parameter(name, kShape, experts);
    parameter.initialise_normal(seed, 1.0);
    return copy_of(parameter.value());
  };
  const auto base = values("a", 1, {0, 1});
  EXPECT_NE(base, values("a", 1, {1, 2}));
  EXPECT_NE(base, values("b", 1, {0, 1}));
  EXPECT_NE(base, values("a", 2, {0, 1}));
}

TEST(Parameter, DescribesItsPieceOfTheGlobalTensor) {
  Parameter shard("experts", kShape, {2, 5});
  EXPECT_EQ(shard.value().shape(), (Shape{3, 3, 5}));
  EXPECT_EQ(shard.gradient().shape(), shard.value().shape());
  const ShardedTensor sharded = shard.sharded();
  EXPECT_EQ(sharded.name, "experts");
  EXPECT_EQ(sharded.global_shape, kShape);
  EXPECT_EQ(sharded.sharding, Sharding::kExpert);
  EXPECT_EQ(sharded.local_rows, (Range{2, 5}));
  EXPECT_EQ(sharded.local.raw(), shard.value().raw());

  Parameter empty("experts", kShape, {7, 7});
  empty.initialise_normal(1, 1.0);
  EXPECT_EQ(empty.value().elements(), 0);

  Parameter replicated("weight", {4, 2});
  EXPECT_EQ(replicated.sharding(), Sharding::kReplicated);
  EXPECT_EQ(replicated.local_rows(), (Range{0, 4}));
}

TEST(Parameter, GradientStartsAtZeroAndIsClearedToIt) {
  Parameter parameter("weight", {2, 2});
  EXPECT_EQ(copy_of(parameter.gradient()), std::vector<float>(4, 0.0F));
  parameter.gradient().data<float>()[3] = 1.0F;
  parameter.zero_gradient();
  EXPECT_EQ(copy_of(parameter.gradient()), std::vector<float>(4, 0.0F));

  // A target is assigned once, then added to.
  parameter.zero_gradient();
  EXPECT_FALSE(parameter.gradient_target().accumulate);
  EXPECT_TRUE(parameter.gradient_target().accumulate);
  parameter.gradient_target().gradient.data<float>()[3] = 1.0F;
  EXPECT_EQ(parameter.gradient().data<float>()[3], 1.0F);
}

}  // namespace
}  // namespace conclave
