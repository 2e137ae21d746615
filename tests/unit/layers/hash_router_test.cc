#include "layers/moe/router/hash_router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/support/router_case.h"

namespace conclave {
namespace {

using test::RouterCase;

// Of the first `vocab_size` ids, how many have expert e as choice k: [K][E].
std::vector<std::vector<std::int64_t>> counts_by_choice(const std::vector<std::int32_t>& table,
                                                        std::int64_t experts, std::int64_t top_k) {
  std::vector counts(static_cast<std::size_t>(top_k),
                     std::vector<std::int64_t>(static_cast<std::size_t>(experts), 0));
  for (std::size_t i = 0; i < table.size(); ++i)
    ++counts[i % static_cast<std::size_t>(top_k)][static_cast<std::size_t>(table[i])];
  return counts;
}

TEST(HashTable, DealsTheIdsEvenlyToDifferentExperts) {
  for (const std::int64_t V : {1, 7, 256, 1001})
    for (const std::int64_t E : {1, 5, 16})
      for (const std::int64_t K : {std::int64_t{1}, std::int64_t{2}, E}) {
        if (K > E) continue;
        SCOPED_TRACE(fmt::format("V {} E {} K {}", V, E, K));
        const std::vector<std::int32_t> table = hash_table(1, "router", V, E, K);
        ASSERT_EQ(table.size(), static_cast<std::size_t>(V * K));
        for (auto id = table.begin(); id != table.end(); id += K)
          EXPECT_EQ(std::set<std::int32_t>(id, id + K).size(), static_cast<std::size_t>(K));
        for (const auto& counts : counts_by_choice(table, E, K)) {
          const auto [fewest, most] = std::ranges::minmax(counts);
          EXPECT_GE(fewest, V / E);
          EXPECT_LE(most, (V + E - 1) / E);
        }
      }
}

TEST(HashTable, FollowsFromSeedAndNameAlone) {
  const auto table = hash_table(1, "layers.0.moe.router", 256, 8, 2);
  EXPECT_EQ(table, hash_table(1, "layers.0.moe.router", 256, 8, 2));
  EXPECT_NE(table, hash_table(2, "layers.0.moe.router", 256, 8, 2));
  EXPECT_NE(table, hash_table(1, "layers.1.moe.router", 256, 8, 2));
}

// Ids of one first expert meet all others as their second: 1000 ids, 8 experts, 125 ids for 7 partners.
TEST(HashTable, SecondChoicesSplitTheIdsOfAFirst) {
  const auto table = hash_table(3, "router", 1000, 8, 2);
  std::map<std::pair<std::int32_t, std::int32_t>, int> pairs;
  for (std::size_t id = 0; id < 1000; ++id) ++pairs[{table[2 * id], table[2 * id + 1]}];
  EXPECT_EQ(pairs.size(), 8U * 7U);
}

TEST(HashRouterTest, RoutesByTokenIdWithEqualWeights) {
  for (const std::int64_t K : {1, 2, 6}) {
    config::Experiment config = RouterCase::experiment(config::Moe::hash, 6, K);
    config.mutable_moe()->set_routed_scale(1.5);
    RouterCase c(config, 3);
    EXPECT_TRUE(c.parameters.empty());
    c.pad(1);
    c.forward();
    const auto table = hash_table(7, RouterCase::kName, 50, 6, K);
    for (std::int64_t t = 0; t < c.tokens(); ++t)
      for (std::int64_t k = 0; k < K; ++k) {
        const auto at = static_cast<std::size_t>(t * K + k);
        const std::int64_t id = c.token_ids[static_cast<std::size_t>(t)];
        const bool is_padding = c.context.is_padding(t);
        EXPECT_EQ(c.routing.experts.values<std::int32_t>()[at],
                  is_padding ? kNoExpert : table[static_cast<std::size_t>(id * K + k)]);
        EXPECT_EQ(c.routing.weights.values<float>()[at], is_padding ? 0.0F : 1.5F / static_cast<float>(K));
      }
    EXPECT_NEAR(c.statistics.router_entropy_sum, 3 * (RouterCase::S - 1) * std::log(static_cast<double>(K)),
                1e-12);
    EXPECT_EQ(c.statistics.balance_loss_raw, 0);
    EXPECT_EQ(c.statistics.z_loss_raw, 0);

    const TensorView dx = c.backward();
    ASSERT_EQ(dx.shape(), (Shape{c.tokens(), RouterCase::D}));
    for (const float value : dx.values<float>()) EXPECT_EQ(value, 0);
  }
}

TEST(HashRouterTest, TakesZeroTokens) {
  RouterCase c(RouterCase::experiment(config::Moe::hash, 4, 2), 0);
  EXPECT_EQ(c.forward().experts.shape(), (Shape{0, 2}));
  EXPECT_EQ(c.backward().shape(), (Shape{0, RouterCase::D}));
}

TEST(HashRouterTest, RefusesInputsThatAreNoTokens) {
  RouterCase c(RouterCase::experiment(config::Moe::hash, 4, 2), 1);
  c.token_ids[2] = 50;
  EXPECT_THROW(c.forward(), Error);
  c.context.token_ids = {};
  EXPECT_THROW(c.forward(), Error);
}

}  // namespace
}  // namespace conclave
