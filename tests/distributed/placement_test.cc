// Ranks choose GPUs, on one host with as many emulated ones as each test says.
// ranks: 1 2 3
#include "trainer/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "comm/base/error.h"
#include "comm/self/self_communicator.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

using test::world;
using testing::AllOf;
using testing::HasSubstr;

config::Run run_that(bool allows_sharing) {
  config::Run run;
  run.set_allow_gpu_sharing(allows_sharing);
  return run;
}

TEST(Placement, GivesEachRankItsOwnGpuAndTellsAllRanks) {
  const test::EmulatedGpus gpus(world().size());
  const Placement placement = place_on_gpus(run_that(false), world());
  EXPECT_EQ(placement.gpu, world().rank());
  ASSERT_EQ(static_cast<int>(placement.ranks.size()), world().size());
  std::set<std::string> ids;
  for (std::size_t rank = 0; rank < placement.ranks.size(); ++rank) {
    const RankPlace& place = placement.ranks[rank];
    EXPECT_EQ(place.gpu, std::to_string(rank));
    EXPECT_EQ(place.name, "emulated GPU");
    EXPECT_EQ(place.numa_node, "-");
    EXPECT_NE(place.cores, "");
    EXPECT_EQ(place.host, placement.ranks.front().host);
    ids.insert(place.pci_bus_id);
    EXPECT_THAT(describe(placement), AllOf(HasSubstr(place.pci_bus_id), HasSubstr(place.host)));
  }
  EXPECT_EQ(static_cast<int>(ids.size()), world().size());
}

TEST(Placement, RefusesToShareUnaskedWithTheSameWordsOnEveryRank) {
  if (world().size() == 1) return;
  const test::EmulatedGpus gpus(1);
  std::string refusal;
  try {
    place_on_gpus(run_that(false), world());
  } catch (const ConfigError& error) {
    refusal = error.what();
  }
  EXPECT_THAT(refusal, AllOf(HasSubstr(std::to_string(world().size()) + " ranks and 1 GPU "),
                             HasSubstr("run.allow_gpu_sharing: true")));
  EXPECT_EQ(place_on_gpus(run_that(true), world()).gpu, 0);
}

// As in verify-layout: the others wait elsewhere.
TEST(Placement, OfOneRankAsksNoOther) {
  const test::EmulatedGpus gpus(1);
  if (world().rank() == 0) {
    const auto alone = make_self_communicator();
    EXPECT_EQ(place_on_gpus(run_that(false), *alone).ranks.size(), 1U);
  }
  world().barrier().wait();
}

}  // namespace
}  // namespace conclave
