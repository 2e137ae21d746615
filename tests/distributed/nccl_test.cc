// What is NCCL's alone: which groups it connects, its place beside the stream that computes, and its
// failures. On emulated GPUs (tests/cuda_emulation), one a rank.
//
// ranks: 2 4
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "tests/cuda_emulation/nccl.h"
#include "tests/support/collective_places.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/test_gpu.h"

namespace conclave::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const EmulatedGpus kGpus(4);

constexpr std::int64_t kCount = 5000;

std::vector<float> ones() { return std::vector<float>(kCount, 1.0F); }
std::vector<float> sum_of_ones() { return std::vector<float>(kCount, static_cast<float>(world().size())); }

template <class Action>
std::string failure_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(NcclGroups, AreThoseWhoseRanksHaveDifferentGpus) {
  cuda::Stream stream(world().rank() % 2);
  const auto all = make_gpu_communicator(world().split(0, world().rank(), "all"), stream);
  const auto pair = all->split(world().rank() / 2, world().rank(), "pair");
  const auto alone = all->split(world().rank(), 0, "alone");
  EXPECT_EQ(pair->describe_paths(), "NCCL 2.28.9");
  EXPECT_EQ(alone->describe_paths(), "one GPU");
  if (world().size() == 2) {
    EXPECT_EQ(all->describe_paths(), "NCCL 2.28.9");
  } else {
    EXPECT_EQ(all->describe_paths(), "shared memory through the host's memory: ranks share a GPU");
  }
}

template <class Place>
class OnGpus : public testing::Test {
 protected:
  void SetUp() override { Place::open(); }
  void TearDown() override { Place::close(); }
};
using Places = testing::Types<OwnGpu, SharedGpu>;
TYPED_TEST_SUITE(OnGpus, Places);

// The host waits nowhere between: what is enqueued before an operation comes first, what is enqueued after
// its wait() comes last.
TYPED_TEST(OnGpus, AnOperationHasItsTurnInTheStream) {
  Elements<float, TypeParam> source(ones());
  Elements<float, TypeParam> data(kCount);
  Elements<float, TypeParam> result(kCount);
  const cuda::Stream& stream = TypeParam::stream();
  TypeParam::world().all_reduce(data.view());  // makes memory for its chunks, which waits for the GPU
  TypeParam::finish();
  cuda::copy(stream, data.view().data, source.view().data, data.view().bytes());
  Work work = TypeParam::world().all_reduce(data.view());
  // The GPU may begin at any time, so that it must know what comes before.
  for (int repeat = 0; repeat < 100; ++repeat) TypeParam::world().progress();
  work.wait();
  cuda::copy(stream, result.view().data, data.view().data, data.view().bytes());
  cuda::fill_with_zeros(stream, data.view().data, data.view().bytes());
  EXPECT_EQ(result.values(), sum_of_ones());
  EXPECT_EQ(data.values(), std::vector<float>(kCount, 0.0F));
}

class NcclFailures : public OnGpus<OwnGpu> {};

TEST_F(NcclFailures, ALostConnectionEndsAllGroupsAndNamesTheOperation) {
  const auto other = OwnGpu::world().split(0, world().rank(), "other");
  Elements<float, OwnGpu> data(ones());
  Elements<float, OwnGpu> more(ones());
  EXPECT_EQ(emulation::nccl_communicators(), 2);
  emulation::lose_connection();
  OwnGpu::world().all_reduce(data.view());
  other->all_reduce(more.view());
  EXPECT_THAT(
      failure_of([] { OwnGpu::stream().synchronize(); }),
      AllOf(HasSubstr("all_reduce number 2 of 20000 bytes in group \"world\""),
            HasSubstr(fmt::format("on rank {} of {}", world().rank(), world().size())),
            HasSubstr("NCCL: remote process exited or there was a network error; the connection to a peer")));
  EXPECT_EQ(emulation::nccl_communicators(), 0);
  EXPECT_THAT(failure_of([&] { other->all_reduce(more.view()); }),
              HasSubstr("all_reduce number 3 in group \"other\": NCCL was ended on this rank before"));
}

TEST_F(NcclFailures, AreFoundBetweenOperationsToo) {
  Elements<float, OwnGpu> data(ones());
  emulation::lose_connection();
  Work work = OwnGpu::world().all_reduce(data.view());
  EXPECT_THAT(failure_of([] {
                // Its turn comes when somebody asks for progress, and it doesn't end.
                for (int repeat = 0; repeat < 100; ++repeat) OwnGpu::world().progress();
              }),
              HasSubstr("all_reduce number 2"));
  work.wait();  // doesn't wait for what was ended
  OwnGpu::finish();
}

// Freeing memory waits for the GPU, which would wait for a peer, of whichever group: all of them end
// together.
TEST_F(NcclFailures, AnExceptionLeavesNothingUnderWay) {
  EXPECT_EQ(emulation::nccl_communicators(), 1);
  try {
    const auto other = OwnGpu::world().split(0, world().rank(), "other");
    EXPECT_EQ(emulation::nccl_communicators(), 2);
    Elements<float, OwnGpu> data(ones());
    emulation::lose_connection();
    Work work = other->all_reduce(data.view());
    throw std::runtime_error("something else");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(emulation::nccl_communicators(), 0);
}

}  // namespace
}  // namespace conclave::test
