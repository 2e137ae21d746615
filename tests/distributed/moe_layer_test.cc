// ranks: 1 2 3 4
// The same tokens over any number of ranks: every rank's outputs, input gradients and expert
// gradients (summed over the ranks that hold the same experts) are those of one rank that has all
// tokens and all experts.
#include "layers/moe/moe_layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "comm/self/self_communicator.h"
#include "tests/support/moe_case.h"
#include "tests/support/mpi_environment.h"

namespace conclave::test {
namespace {

// What the definition says, with the bound on any fp32 evaluation, whatever the layout.
struct Expected {
  std::vector<Bounded> y;
  reference::MoeTensors<Bounded> gradients;
};

Expected expected_of(const MoeCase& moe, const reference::MoeChoices& choices) {
  const auto bounded = moe.tensors.as<Bounded>();
  const std::vector<Bounded> dy(moe.dy.begin(), moe.dy.end());
  return {reference::moe_forward(moe.sizes, choices, bounded),
          reference::moe_backward(moe.sizes, choices, bounded, dy)};
}

// The gradient of a parameter over the whole batch, as the optimizer will see it.
void sum_over_holders(Parameter& parameter, const ProcessGrid& grid) {
  Communicator& holders = parameter.sharding() == Sharding::kExpert ? grid.expert_data() : grid.world();
  holders.all_reduce(parameter.gradient()).wait();
}

// The choices of the tokens `mine` by the rank of the expert-parallel group that holds the expert.
std::vector<std::int64_t> by_owner(const reference::MoeChoices& choices, Range mine, const MoeCase& moe,
                                   const ProcessGrid& grid) {
  std::vector<std::int64_t> counts;
  for (int rank = 0; rank < grid.expert_parallel().size(); ++rank) {
    const Range owned = grid.experts_of(static_cast<std::int64_t>(moe.sizes.experts), rank);
    const auto begin = choices.expert.begin() + mine.begin * static_cast<std::int64_t>(moe.sizes.top_k);
    const auto end = choices.expert.begin() + mine.end * static_cast<std::int64_t>(moe.sizes.top_k);
    counts.push_back(std::count_if(begin, end, [&](std::size_t expert) {
      return owned.begin <= static_cast<std::int64_t>(expert) &&
             static_cast<std::int64_t>(expert) < owned.end;
    }));
  }
  return counts;
}

// Tokens a rank: tokens_of[r] for rank r.
void expect_matches_one_rank(const MoeCase& moe, const std::vector<std::int64_t>& tokens_of) {
  const auto all_tokens = static_cast<std::int64_t>(moe.sizes.tokens);
  ASSERT_EQ(std::accumulate(tokens_of.begin(), tokens_of.end(), std::int64_t{0}), all_tokens);
  const int rank = world().rank();
  const std::int64_t begin = std::accumulate(tokens_of.begin(), tokens_of.begin() + rank, std::int64_t{0});
  const Range mine{begin, begin + tokens_of[static_cast<std::size_t>(rank)]};
  const reference::MoeChoices choices = choose_without_near_ties(moe);
  Expected expected = expected_of(moe, choices);

  const std::unique_ptr<Communicator> self = make_self_communicator();
  const ProcessGrid one_rank(*self, 1);
  MoeCaseLayer whole(moe, one_rank);
  whole.run({0, all_tokens});
  expect_within_bounds(whole.y(), expected.y, "y of one rank");

  for (int expert_parallel_size = 1; expert_parallel_size <= world().size(); ++expert_parallel_size) {
    if (world().size() % expert_parallel_size != 0) continue;
    SCOPED_TRACE(fmt::format("expert_parallel_size {}", expert_parallel_size));
    const ProcessGrid grid(world(), expert_parallel_size);
    MoeCaseLayer layer(moe, grid);
    layer.run(mine);

    expect_within_bounds(layer.y(), rows_of(expected.y, all_tokens, mine), "y");
    expect_within_bounds(layer.dx(), rows_of(expected.gradients.x, all_tokens, mine), "dx");
    for (Parameter* parameter : layer.parameters()) {
      sum_over_holders(*parameter, grid);
      expect_within_bounds(parameter->gradient().values<float>(),
                           rows_of(tensor_of(expected.gradients, parameter->name()),
                                   parameter->global_shape()[0], parameter->local_rows()),
                           "gradient of " + parameter->name());
    }

    // Every choice was counted once where it was made, rows that fill up never.
    MoeStatistics statistics = layer.layer().statistics();
    world().all_reduce(buffer_view(std::span(statistics.chosen_per_expert))).wait();
    EXPECT_EQ(statistics.chosen_per_expert, whole.layer().statistics().chosen_per_expert);
    EXPECT_EQ(statistics.sent_per_rank, by_owner(choices, mine, moe, grid));
  }
}

std::vector<std::int64_t> even(std::int64_t tokens) {
  std::vector<std::int64_t> tokens_of;
  for (int rank = 0; rank < world().size(); ++rank) {
    tokens_of.push_back(partition(tokens, world().size(), rank).size());
  }
  return tokens_of;
}

TEST(DistributedMoeLayerTest, EvenShards) {
  expect_matches_one_rank(
      make_moe_case({.tokens = 24, .d_model = 7, .d_ff = 5, .experts = 12, .top_k = 2}, 1), even(24));
}

TEST(DistributedMoeLayerTest, UnevenShards) {
  expect_matches_one_rank(
      make_moe_case({.tokens = 23, .d_model = 7, .d_ff = 5, .experts = 5, .top_k = 2, .shared_d_ff = 5}, 2),
      even(23));
}

TEST(DistributedMoeLayerTest, FewerExpertsThanRanks) {
  expect_matches_one_rank(
      make_moe_case({.tokens = 11, .d_model = 6, .d_ff = 3, .experts = 2, .top_k = 1, .normalize = false}, 3),
      even(11));
}

TEST(DistributedMoeLayerTest, EveryTokenTakesEveryExpert) {
  expect_matches_one_rank(make_moe_case({.tokens = 9, .d_model = 5, .d_ff = 3, .experts = 3, .top_k = 3}, 4),
                          even(9));
}

TEST(DistributedMoeLayerTest, AllTokensToOneExpert) {
  MoeCase moe = make_moe_case({.tokens = 14, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 1}, 5);
  // A first feature that all tokens share, and only expert 3 looks for.
  for (std::size_t t = 0; t < moe.sizes.tokens; ++t) moe.tensors.x[t * moe.sizes.d_model] = 4;
  for (std::size_t e = 0; e < moe.sizes.experts; ++e) {
    moe.tensors.router[e * moe.sizes.d_model] = e == 3 ? 4 : -4;
  }
  const reference::MoeChoices choices = choose_without_near_ties(moe);
  ASSERT_EQ(choices.expert, std::vector<std::size_t>(14, 3));
  expect_matches_one_rank(moe, even(14));
}

TEST(DistributedMoeLayerTest, RanksWithoutTokens) {
  const MoeCase moe =
      make_moe_case({.tokens = 10, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 2, .shared_d_ff = 4}, 6);
  std::vector<std::int64_t> tokens_of(static_cast<std::size_t>(world().size()), 0);
  tokens_of.back() = 10;
  expect_matches_one_rank(moe, tokens_of);
  tokens_of.back() = 0;
  tokens_of.front() = 10;
  expect_matches_one_rank(moe, tokens_of);
}

// Without any exchange of counts; on ranks with no token too.
TEST(DistributedMoeLayerTest, FilledUpToCapacity) {
  MoeCase moe =
      make_moe_case({.tokens = 13, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 2, .shared_d_ff = 4}, 10);
  moe.experiment.mutable_moe()->set_pad_to_capacity(true);
  moe.experiment.mutable_moe()->set_capacity_factor(2.5);
  expect_matches_one_rank(moe, even(13));
  std::vector<std::int64_t> tokens_of(static_cast<std::size_t>(world().size()), 0);
  tokens_of.back() = 13;
  expect_matches_one_rank(moe, tokens_of);
}

TEST(DistributedMoeLayerTest, OneTokenARank) {
  const auto ranks = static_cast<std::size_t>(world().size());
  expect_matches_one_rank(
      make_moe_case({.tokens = ranks, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 2}, 7),
      std::vector<std::int64_t>(ranks, 1));
}

TEST(DistributedMoeLayerTest, NoTokenAtAll) {
  expect_matches_one_rank(make_moe_case({.tokens = 0, .d_model = 6, .d_ff = 4, .experts = 5, .top_k = 2}, 8),
                          even(0));
}

// Two runs of one layout are equal to the bit.
TEST(DistributedMoeLayerTest, BitwiseRepeatable) {
  const MoeCase moe =
      make_moe_case({.tokens = 40, .d_model = 16, .d_ff = 8, .experts = 6, .top_k = 2, .shared_d_ff = 8}, 9);
  const ProcessGrid grid(world(), world().size());
  const Range mine = partition(40, world().size(), world().rank());
  MoeCaseLayer first(moe, grid);
  MoeCaseLayer second(moe, grid);
  first.run(mine);
  second.run(mine);
  EXPECT_TRUE(std::ranges::equal(first.y(), second.y()));
  EXPECT_TRUE(std::ranges::equal(first.dx(), second.dx()));
  for (std::size_t p = 0; p < first.parameters().size(); ++p) {
    EXPECT_TRUE(std::ranges::equal(first.parameters()[p]->gradient().values<float>(),
                                   second.parameters()[p]->gradient().values<float>()));
  }
}

}  // namespace
}  // namespace conclave::test
