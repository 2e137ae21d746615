#include "comm/numa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A folder like /sys: two nodes with processors, one with memory alone, and a GPU on node 1.
class FakeSys : public testing::Test {
 protected:
  FakeSys() : sys_(std::filesystem::path(testing::TempDir()) / ("sys_" + std::to_string(getpid()))) {
    write("devices/system/node/node0/cpulist", "0-3,8-11\n");
    write("devices/system/node/node1/cpulist", "4-7,12-15\n");
    write("devices/system/node/node2/cpulist", "\n");
    write("devices/system/node/online", "0-2\n");
    write("bus/pci/devices/0000:b1:00.0/numa_node", "1\n");
    write("bus/pci/devices/0000:b2:00.0/numa_node", "-1\n");
  }
  ~FakeSys() override { std::filesystem::remove_all(sys_); }

  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((sys_ / name).parent_path());
    std::ofstream(sys_ / name) << text;
  }

  std::filesystem::path sys_;
};

TEST_F(FakeSys, SaysWhereAGpuIs) {
  const NumaFacts facts = read_numa_facts("0000:B1:00.0", sys_);  // CUDA writes capitals
  EXPECT_EQ(facts.nodes, 2);
  EXPECT_EQ(facts.node, 1);
  EXPECT_THAT(facts.cpus, ElementsAre(4, 5, 6, 7, 12, 13, 14, 15));
}

TEST_F(FakeSys, MayNotKnow) {
  for (const char* id : {"0000:b2:00.0", "0000:ff:00.0"}) {
    const NumaFacts facts = read_numa_facts(id, sys_);
    EXPECT_EQ(facts.nodes, 2);
    EXPECT_EQ(facts.node, -1);
    EXPECT_THAT(facts.cpus, IsEmpty());
  }
  EXPECT_EQ(read_numa_facts("0000:b1:00.0", sys_ / "nowhere").nodes, 1);
}

TEST(CpuList, IsReadAsLinuxWritesIt) {
  EXPECT_THAT(parse_cpu_list(""), IsEmpty());
  EXPECT_THAT(parse_cpu_list("7"), ElementsAre(7));
  EXPECT_THAT(parse_cpu_list("0-2,5,10-11"), ElementsAre(0, 1, 2, 5, 10, 11));
  for (const char* wrong : {"a", "1-", "-1", "3-2", "1,,2", "1 2"})
    EXPECT_THROW(parse_cpu_list(wrong), Error) << wrong;
}

TEST(CpusBesideGpu, AreThoseOfItsNodeThatTheRankMayUse) {
  const NumaFacts facts{.nodes = 2, .node = 1, .cpus = {4, 5, 6, 7}};
  EXPECT_THAT(cpus_beside_gpu(facts, std::vector{0, 1, 2, 3, 4, 5, 6, 7}), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(cpus_beside_gpu(facts, std::vector{2, 3, 4, 5}), ElementsAre(4, 5));
}

TEST(CpusBesideGpu, AreLeftAsTheyAreWhereThereIsNothingToGain) {
  const std::vector all = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_THAT(cpus_beside_gpu({.nodes = 1, .node = 0, .cpus = {0, 1, 2, 3}}, all), IsEmpty());
  EXPECT_THAT(cpus_beside_gpu({.nodes = 2, .node = -1, .cpus = {}}, all), IsEmpty());
  const NumaFacts facts{.nodes = 2, .node = 1, .cpus = {4, 5, 6, 7}};
  EXPECT_THAT(cpus_beside_gpu(facts, std::vector{5, 6}), IsEmpty());     // there already
  EXPECT_THAT(cpus_beside_gpu(facts, std::vector{0, 1, 2}), IsEmpty());  // bound elsewhere on purpose
}

TEST(CpuBinding, HoldsForTheThread) {
  const std::vector<int> before = allowed_cpus();
  ASSERT_FALSE(before.empty());
  bind_to(std::vector{before.back()});
  EXPECT_THAT(allowed_cpus(), ElementsAre(before.back()));
  bind_to(before);
  EXPECT_EQ(allowed_cpus(), before);
  EXPECT_THROW(bind_to(std::vector<int>{}), Error);
}

}  // namespace
}  // namespace conclave
