// ranks: 2 4
// How uneven the ranks' work is, from what each rank says that it sent.
#include "trainer/routing_summary.h"

#include <gtest/gtest.h>

#include "layers/model/language_model.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"

namespace conclave {
namespace {

using test::world;

TEST(DistributedRoutingSummary, RankImbalanceCountsWhatEachRankReceives) {
  const int rank = world().rank();
  const ProcessGrid grid(world(), 2);
  const LanguageModel model(test::tiny_experiment(""), grid);
  // Everybody sends 3 to the first rank of its group and 1 to the second.
  model.moe_layers()[0].layer->take_statistics({.sent_per_rank = {3, 1}});
  // Ranks 0 and 1 send 2 and 4, the others nothing: rank 1 receives 8 of 12.
  model.moe_layers()[1].layer->take_statistics(
      {.sent_per_rank = rank < 2 ? std::vector<std::int64_t>{2, 4} : std::vector<std::int64_t>{0, 0}});
  const RoutingSummary summary = take_routing_summary(model, world());
  ASSERT_EQ(summary.rank_imbalance.size(), 2U);
  EXPECT_DOUBLE_EQ(summary.rank_imbalance[0], 1.5);
  EXPECT_DOUBLE_EQ(summary.rank_imbalance[1], 8.0 / (12.0 / world().size()));
  EXPECT_EQ(take_routing_summary(model, world()).rank_imbalance, (std::vector<double>{1, 1}));
}

}  // namespace
}  // namespace conclave
