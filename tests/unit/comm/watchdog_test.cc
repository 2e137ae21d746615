#include "comm/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "comm/watchdog_report.h"

namespace conclave {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

// Two ranks at 100 s, of which rank 0 has waited for 11 s in collective 8 of the world.
std::vector<RankState> two_ranks() {
  std::vector<RankState> ranks(2);
  for (int rank = 0; rank < 2; ++rank) {
    RankState& state = ranks[static_cast<std::size_t>(rank)];
    state.rank = rank;
    state.host = "node7";
    state.heartbeat_ns = 100 * kSecond;
    state.step = 41;
    state.layer = 3;
    state.waiting = true;
    state.since_ns = 89 * kSecond;
    state.operation = Operation::kAllReduce;
    state.sequence = 8;
    state.bytes = 1234;
    state.group_rank = rank;
    state.group_size = 2;
    state.group = "world";
  }
  return ranks;
}

std::string report(const std::vector<RankState>& ranks, int world_size = 2) {
  return hang_report({.ranks = ranks,
                      .own = 0,
                      .world_size = world_size,
                      .now_ns = 100 * kSecond,
                      .timeout_ns = 10 * kSecond});
}

std::string last_line(const std::string& text) { return text.substr(text.rfind('\n') + 1); }

TEST(HangReport, HasALineForEachRank) {
  EXPECT_THAT(
      report(two_ranks()),
      testing::AllOf(testing::HasSubstr("run.timeout of 10 s"),
                     testing::HasSubstr("\n  rank 0 on node7, step 42, layer 3: waits 11.0 s in all_reduce "
                                        "number 8 of group \"world\" (rank 0 of 2), 1234 bytes"),
                     testing::HasSubstr("\n  rank 1 on node7, step 42")));
}

TEST(HangReport, NamesARankWithoutSignOfLifeEvenIfItSeemsToWait) {
  std::vector<RankState> ranks = two_ranks();
  ranks[1].heartbeat_ns = 88 * kSecond;
  EXPECT_THAT(report(ranks), testing::HasSubstr("no sign of life for 12.0 s"));
  EXPECT_THAT(last_line(report(ranks)),
              testing::AllOf(testing::StartsWith("conclave: missing, stopped or dead: rank 1 on node7"),
                             testing::Not(testing::HasSubstr("rank 0"))));
}

TEST(HangReport, NamesARankThatComputes) {
  std::vector<RankState> ranks = two_ranks();
  ranks[1].waiting = false;
  ranks[1].sequence = 7;
  EXPECT_THAT(report(ranks),
              testing::HasSubstr("waits in none; its last ended 11.0 s ago: all_reduce number 7"));
  EXPECT_THAT(last_line(report(ranks)), testing::HasSubstr("missing, busy elsewhere since: rank 1 on node7"));
}

TEST(HangReport, NamesARankInAnEarlierCollective) {
  std::vector<RankState> ranks = two_ranks();
  ranks[1].sequence = 7;
  EXPECT_THAT(last_line(report(ranks)), testing::HasSubstr("waiting in an earlier collective: rank 1"));
}

TEST(HangReport, NamesBothSidesOfADisagreement) {
  std::vector<RankState> ranks = two_ranks();
  ranks[1].operation = Operation::kBroadcast;
  EXPECT_THAT(last_line(report(ranks)),
              testing::AllOf(testing::HasSubstr("ranks order operations differently"),
                             testing::HasSubstr("rank 0 on node7 (step 42, layer 3, all_reduce number 8"),
                             testing::HasSubstr("rank 1 on node7 (step 42, layer 3, broadcast number 8")));
}

TEST(HangReport, NamesARankThatIsAtItsEnd) {
  std::vector<RankState> ranks = two_ranks();
  ranks[1].operation = Operation::kFinalize;
  ranks[1].sequence = 0;
  EXPECT_THAT(last_line(report(ranks)), testing::HasSubstr("missing, at its end already: rank 1 on node7"));
}

TEST(HangReport, SaysWhatANodeCanNotKnow) {
  EXPECT_THAT(last_line(report(two_ranks())), testing::HasSubstr("missing: none; messages"));
  EXPECT_THAT(last_line(report(two_ranks(), 5)),
              testing::HasSubstr("of the 3 ranks on other nodes those that their node's report names"));
}

CollectiveNote some_collective() {
  return {.operation = Operation::kAllToAllV,
          .sequence = 5,
          .bytes = 77,
          .group = NotedText::words_of("expert_parallel"),
          .group_rank = 1,
          .group_size = 2};
}

TEST(NotedText, IsCutToItsLength) {
  NotedText text;
  EXPECT_EQ(text.text(), "");
  text.store(NotedText::words_of("world"));
  EXPECT_EQ(text.text(), "world");
  text.store(NotedText::words_of(std::string(100, 'x')));
  EXPECT_EQ(text.text(), std::string(NotedText::kMaxBytes, 'x'));
}

// The table of two ranks in this process; the test plays rank 0.
class WatchdogTest : public testing::Test {
 protected:
  Watchdog& watch(std::size_t own) {
    NodeTable table = table_;
    table.own = own;
    watchdogs_.push_back(std::make_unique<Watchdog>(
        table, 2, [this](const std::string& report) { reports_.set_value(report); }));
    return *watchdogs_.back();
  }
  RankState state(std::size_t rank) const { return state_of(table_.ranks[rank]); }

  NodeTable table_ = make_private_table(2, 0, "here");
  std::promise<std::string> reports_;
  std::vector<std::unique_ptr<Watchdog>> watchdogs_;
};

TEST_F(WatchdogTest, OthersReadWhatARankNotes) {
  Watchdog& watchdog = watch(1);
  watchdog.set_step(9);
  watchdog.set_layer(2);
  {
    const WatchedWait wait(watchdog, some_collective());
    const RankState seen = state(1);
    EXPECT_TRUE(seen.waiting);
    EXPECT_EQ(seen.rank, 1);
    EXPECT_EQ(seen.host, "here");
    EXPECT_EQ(seen.step, 9);
    EXPECT_EQ(seen.layer, 2);
    EXPECT_EQ(seen.operation, Operation::kAllToAllV);
    EXPECT_EQ(seen.sequence, 5);
    EXPECT_EQ(seen.bytes, 77);
    EXPECT_EQ(seen.group, "expert_parallel");
    EXPECT_EQ(seen.group_rank, 1);
    EXPECT_EQ(seen.group_size, 2);
  }
  EXPECT_FALSE(state(1).waiting);
  EXPECT_FALSE(state(0).waiting);
}

TEST_F(WatchdogTest, ReportsAWaitWithoutEndAndTheRankThatIsMissing) {
  Watchdog& watchdog = watch(0);
  watchdog.set_timeout(0.05);
  const WatchedWait wait(watchdog, some_collective());
  const std::string text = reports_.get_future().get();
  EXPECT_THAT(text, testing::HasSubstr("all_to_all_v number 5"));
  EXPECT_THAT(last_line(text), testing::HasSubstr("rank 1 on here"));
  EXPECT_EQ(table_.reporter->load(), 0);
}

// Each wait ends before the limit; together they are longer.
TEST_F(WatchdogTest, TimesEachWaitAlone) {
  Watchdog& watchdog = watch(0);
  watchdog.set_timeout(1e6);
  for (int i = 0; i < 1000; ++i) {
    CollectiveNote collective = some_collective();
    collective.sequence = i;
    const WatchedWait wait(watchdog, collective);
  }
  EXPECT_EQ(table_.reporter->load(), -1);
}

TEST_F(WatchdogTest, EndsWithoutAWait) {
  watch(0).set_timeout(1e-3);
  watchdogs_.clear();
  EXPECT_EQ(table_.reporter->load(), -1);
  Watchdog alone;
  alone.set_timeout(1e-9);
  const WatchedWait wait(alone, some_collective());
}

}  // namespace
}  // namespace conclave
