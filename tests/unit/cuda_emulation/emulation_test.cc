// The emulated GPU punishes what a real one would.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/runtime.h"
#include "comm/cuda/stream.h"
#include "comm/cuda/timestamp.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

class EmulationTest : public testing::Test {
 protected:
  // n floats in the memory of the GPU.
  float* floats(std::size_t n) {
    memory_.push_back(cuda::allocate(kGpu, n * sizeof(float)));
    return reinterpret_cast<float*>(memory_.back().get());
  }
  template <class... Parameters, class... Arguments>
  cudaError_t launch(dim3 grid, dim3 block, void (*kernel)(Parameters...), Arguments... arguments) {
    cudaLaunchConfig_t config;
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = static_cast<cudaStream_t>(stream_.handle());
    return cudaLaunchKernelEx(&config, kernel, arguments...);
  }

  test::EmulatedGpus gpus_{1};
  std::vector<cuda::Memory> memory_;
  cuda::Stream stream_{0};
};

void write_index(float* to) { to[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<float>(threadIdx.x); }

TEST_F(EmulationTest, MemoryIsFullOfNaNs) { EXPECT_TRUE(std::isnan(floats(3)[2])); }

TEST_F(EmulationTest, WorkIsDoneWhenSomebodyWaits) {
  float* values = floats(8);
  ASSERT_EQ(launch(2, 4, write_index, values), cudaSuccess);
  EXPECT_TRUE(std::isnan(values[5])) << "nobody has waited yet";
  stream_.synchronize();
  EXPECT_EQ(values[5], 1.0F);
}

TEST_F(EmulationTest, CopiesOfOrdinaryMemoryAreTakenAtOnceAndOthersInOrder) {
  float* values = floats(2);
  std::vector<float> source{1.0F};
  cuda::copy(stream_, values, source.data(), sizeof(float));
  source[0] = 2.0F;
  cuda::copy(stream_, values + 1, values, sizeof(float));
  stream_.synchronize();
  EXPECT_EQ(values[0], 1.0F);
  EXPECT_EQ(values[1], 1.0F);
}

TEST_F(EmulationTest, AnotherStreamSeesWorkAfterItsEventAlone) {
  const cuda::Stream other(0);
  float* values = floats(2);
  cuda::fill_with_zeros(stream_, values, sizeof(float));
  cuda::copy(other, values + 1, values, sizeof(float));
  other.synchronize();
  EXPECT_TRUE(std::isnan(values[1])) << "no event held the copy back";

  cuda::Event zeroed;
  cuda::fill_with_zeros(stream_, values, sizeof(float));
  zeroed.record(stream_);
  zeroed.hold_back(other);
  cuda::copy(other, values + 1, values, sizeof(float));
  other.synchronize();
  EXPECT_EQ(values[1], 0.0F);
  EXPECT_TRUE(zeroed.is_done());
}

TEST_F(EmulationTest, TimestampsArePassedWhenTheWorkBeforeThemIsDone) {
  float* values = floats(1);
  cuda::Timestamp begin;
  cuda::Timestamp end;
  begin.record(stream_);
  cuda::fill_with_zeros(stream_, values, sizeof(float));
  end.record(stream_);
  EXPECT_THROW(static_cast<void>(end.seconds_since(begin)), Error) << "nobody has waited yet";
  stream_.synchronize();
  EXPECT_GE(end.seconds_since(begin), 0);
  EXPECT_LE(begin.seconds_since(end), 0);
}

void reverse_block(float* values) {
  __shared__ float shared[64];
  shared[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST_F(EmulationTest, ThreadsOfABlockMeetAtBarriers) {
  float* values = floats(64);
  std::iota(values, values + 64, 0.0F);
  ASSERT_EQ(launch(1, 64, reverse_block, values), cudaSuccess);
  stream_.synchronize();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(values[i], static_cast<float>(63 - i));
}

void sum_warps(float* values) {
  float sum = values[threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0U, sum, distance);
  const float of_next = __shfl_down_sync(~0U, sum + static_cast<float>(threadIdx.x), 1U);
  values[threadIdx.x] = of_next;
}

TEST_F(EmulationTest, LanesOfAWarpExchangeValues) {
  float* values = floats(64);
  std::iota(values, values + 64, 0.0F);
  ASSERT_EQ(launch(1, 64, sum_warps, values), cudaSuccess);
  stream_.synchronize();
  EXPECT_EQ(values[0], 496.0F + 1.0F);
  EXPECT_EQ(values[32], 496.0F + 32.0F * 32.0F + 33.0F);
  EXPECT_EQ(values[63], 496.0F + 32.0F * 32.0F + 63.0F) << "the last lane keeps its own";
}

void part_ways(float*) {
  if (threadIdx.x == 0) return;
  __syncthreads();
}

TEST_F(EmulationTest, ThreadsThatPartWaysAtABarrierAreAnError) {
  EXPECT_EXIT(
      {
        launch(1, 4, part_ways, floats(1));
        try {
          stream_.synchronize();
        } catch (const Error& error) {
          std::fprintf(stderr, "%s\n", error.what());
          std::_Exit(7);
        }
      },
      testing::ExitedWithCode(7), "wait at a barrier that others never reach");
}

TEST_F(EmulationTest, ImpossibleLaunchesAreRefused) {
  EXPECT_EQ(launch(1, 1025, write_index, floats(1)), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(0, 32, write_index, floats(1)), cudaErrorInvalidConfiguration);
}

TEST_F(EmulationTest, KernelsAreRefusedTheMemoryOfTheHost) {
  float on_host = 0;
  EXPECT_EQ(launch(1, 1, write_index, &on_host), cudaErrorInvalidValue);
}

TEST_F(EmulationTest, MemoryOfNoGpuIsRefused) {
  EXPECT_THROW(cuda::allocate({DeviceKind::kCuda, 1}, 4), Error);
  EXPECT_THROW(cuda::Stream{1}, Error);
}

using EmulationDeathTest = EmulationTest;

void write_beyond(float* values) {
  if (threadIdx.x == 0) values[blockDim.x - 1] = 1.0F;
}

TEST_F(EmulationDeathTest, AStepBeyondAnAllocationEndsTheProgram) {
  float* values = floats(3);
  launch(1, 3, write_beyond, values);  // the last of three
  stream_.synchronize();
  EXPECT_DEATH(
      {
        launch(1, 4, write_beyond, values);
        stream_.synchronize();
      },
      "beyond the end of an allocation of 12 bytes");
  EXPECT_DEATH(values[64] = 1.0F, "");  // of the page behind
}

TEST_F(EmulationDeathTest, AMissingSynchronizeEndsTheProgram) {
  EXPECT_DEATH(
      {
        const test::Environment guards("CONCLAVE_EMULATION_GUARDS", "1");
        float* values = floats(1);
        launch(1, 1, write_index, values);
        values[0] = 1.0F;
      },
      "a synchronize is missing");
}

}  // namespace
}  // namespace conclave
