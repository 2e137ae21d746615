#include "comm/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> gpus(int count) {
  std::vector<std::string> ids;
  for (int gpu = 0; gpu < count; ++gpu) ids.push_back("0000:0" + std::to_string(gpu) + ":00.0");
  return ids;
}

// `ranks_per_node` ranks on each of `nodes`, which all see `gpus_per_node` GPUs. Buses have the same ids
// everywhere.
std::vector<RankGpus> cluster(int nodes, int ranks_per_node, int gpus_per_node) {
  std::vector<RankGpus> ranks;
  for (int rank = 0; rank < nodes * ranks_per_node; ++rank) {
    const int node = rank / ranks_per_node;
    ranks.push_back({node * ranks_per_node, "node" + std::to_string(node), gpus(gpus_per_node)});
  }
  return ranks;
}

std::string refusal(const std::vector<RankGpus>& ranks, bool allow_sharing = false) {
  try {
    choose_gpus(ranks, allow_sharing);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceChoice, LocalRankIGetsGpuI) {
  EXPECT_THAT(choose_gpus(cluster(1, 1, 1), false), ElementsAre(0));
  EXPECT_THAT(choose_gpus(cluster(1, 4, 4), false), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(choose_gpus(cluster(1, 2, 8), false), ElementsAre(0, 1));
  EXPECT_THAT(choose_gpus(cluster(2, 3, 4), false), ElementsAre(0, 1, 2, 0, 1, 2));
}

TEST(DeviceChoice, RanksOfANodeNeedNotBeNeighbours) {
  std::vector<RankGpus> ranks = cluster(1, 4, 2);
  ranks[1].node = ranks[3].node = 1;  // dealt in turn to two nodes
  EXPECT_THAT(choose_gpus(ranks, false), ElementsAre(0, 0, 1, 1));
}

TEST(DeviceChoice, NeighboursShareLastIfSharingIsAllowed) {
  EXPECT_THAT(choose_gpus(cluster(1, 5, 2), true), ElementsAre(0, 1, 0, 1, 0));
  EXPECT_THAT(choose_gpus(cluster(2, 2, 1), true), ElementsAre(0, 0, 0, 0));
}

TEST(DeviceChoice, EachRankMayBeShownAnotherGpu) {
  std::vector<RankGpus> ranks = cluster(1, 3, 3);
  for (int rank = 0; rank < 3; ++rank)
    ranks[static_cast<std::size_t>(rank)].pci_bus_ids = {gpus(3)[2 - rank]};
  EXPECT_THAT(choose_gpus(ranks, false), ElementsAre(0, 0, 0));
}

// The only way to give each a GPU of its own: whoever comes first must leave GPU 0 to those who see nothing
// else.
TEST(DeviceChoice, FindsTheOneWayInWhichNobodyShares) {
  std::vector<RankGpus> ranks = cluster(1, 3, 3);
  ranks[1].pci_bus_ids = {gpus(3)[0], gpus(3)[1]};
  ranks[2].pci_bus_ids = {gpus(3)[0]};
  EXPECT_THAT(choose_gpus(ranks, false), ElementsAre(2, 1, 0));
}

TEST(DeviceChoice, RefusesMoreRanksThanGpusAndNamesBothRemedies) {
  EXPECT_THAT(refusal(cluster(1, 4, 2)),
              AllOf(HasSubstr("node0"), HasSubstr("4 ranks"), HasSubstr("2 GPUs"),
                    HasSubstr("one rank a GPU"), HasSubstr("run.allow_gpu_sharing: true")));
  std::vector<RankGpus> ranks = cluster(2, 2, 2);
  ranks[2].pci_bus_ids = ranks[3].pci_bus_ids = gpus(1);  // the second node is smaller
  EXPECT_THAT(refusal(ranks), AllOf(HasSubstr("node1"), HasSubstr("2 ranks"), HasSubstr("1 GPU that")));
  EXPECT_EQ(refusal(ranks, true), "");
}

TEST(DeviceChoice, RefusesARankWithoutGpuEvenIfSharingIsAllowed) {
  std::vector<RankGpus> ranks = cluster(2, 1, 1);
  ranks[1].pci_bus_ids.clear();
  EXPECT_THAT(refusal(ranks, true), AllOf(HasSubstr("rank 1 on node node1"), HasSubstr("run.device: cpu")));
}

}  // namespace
}  // namespace conclave
