#include "trainer/doctor/gpu_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

GpuFacts without_gpus(int driver_version) {
  return {.has_cuda = true,
          .cuda = "CUDA 13.0",
          .has_nccl = true,
          .nccl = "NCCL 2.28.9",
          .system = {.runtime_version = 13000, .driver_version = driver_version, .problem = "no device"}};
}

GpuFacts with_gpus(int count) {
  GpuFacts facts = without_gpus(13010);
  for (int index = 0; index < count; ++index) {
    facts.gpus.push_back({.index = index,
                          .name = "NVIDIA H200",
                          .memory_bytes = std::int64_t{141} << 30,
                          .compute_major = 9,
                          .pci_bus_id = "0000:" + std::to_string(index) + "b:00.0"});
    facts.numa_nodes.push_back(index - 1);
    facts.access.emplace_back(static_cast<std::size_t>(count), true);
  }
  return facts;
}

TEST(GpuReport, ShowsVersionsAndAGpuInEachRow) {
  EXPECT_THAT(gpu_report(with_gpus(2)),
              AllOf(HasSubstr("CUDA 13.0; driver for CUDA up to 13.1"), HasSubstr("NCCL 2.28.9"),
                    HasSubstr("0  NVIDIA H200  141 GiB                 9.0  0000:0b:00.0          -"),
                    HasSubstr("1  NVIDIA H200  141 GiB                 9.0  0000:1b:00.0          0"),
                    HasSubstr("every GPU reads the memory of every other"), Not(HasSubstr("gpus  "))));
}

TEST(GpuReport, NamesThePairsThatDoNotSeeEachOther) {
  GpuFacts facts = with_gpus(3);
  facts.access[2][0] = facts.access[0][2] = false;
  EXPECT_THAT(gpu_report(facts), HasSubstr("not between 0 -> 2, 2 -> 0:"));
  EXPECT_THAT(gpu_report(with_gpus(1)), Not(HasSubstr("peer access")));
}

TEST(GpuReport, SaysWhatIsMissingAndHowToMendIt) {
  EXPECT_THAT(gpu_report(without_gpus(0)),
              AllOf(HasSubstr("driver none"), HasSubstr("install a driver for CUDA 13.0")));
  EXPECT_THAT(gpu_report(without_gpus(12080)),
              HasSubstr("the driver is for CUDA 12.8, this program for 13.0"));
  EXPECT_THAT(gpu_report(without_gpus(13000)),
              AllOf(HasSubstr("no device"), HasSubstr("CUDA_VISIBLE_DEVICES"), HasSubstr("nvidia-smi")));
}

TEST(GpuReport, OfABuildWithoutCudaSaysHowToGetOneThatHasIt) {
  const GpuFacts facts{.cuda = "this program was built without CUDA: install it"};
  EXPECT_THAT(gpu_report(facts), AllOf(HasSubstr("built without CUDA: install it"),
                                       HasSubstr("not in a build"), Not(HasSubstr("install a driver"))));
}

}  // namespace
}  // namespace conclave
