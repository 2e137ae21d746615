// The emulated tensor cores, against plain sums, and asynchronous copies.
#include "tests/cuda_emulation/layers/cuda/mma.cuh"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

class MmaTest : public testing::Test {
 protected:
  template <class T>
  T* memory(std::size_t count) {
    memory_.push_back(cuda::allocate(kGpu, count * sizeof(T)));
    return reinterpret_cast<T*>(memory_.back().get());
  }
  template <class... Parameters, class... Arguments>
  void run_warp(void (*kernel)(Parameters...), Arguments... arguments) {
    cudaLaunchConfig_t config;
    config.blockDim = 32;
    config.dynamicSmemBytes = 2048;
    config.stream = static_cast<cudaStream_t>(stream_.handle());
    ASSERT_EQ(cudaLaunchKernelEx(&config, kernel, arguments...), cudaSuccess);
    stream_.synchronize();
  }

  test::EmulatedGpus gpus_{1};
  std::vector<cuda::Memory> memory_;
  cuda::Stream stream_{0};
};

std::byte* shared() { return static_cast<std::byte*>(emulation::dynamic_shared_memory()); }

// a [16, 16] and b [8, 16] (columns of the right factor as rows) through shared memory, by the layouts that
// mma.cuh states.
void multiply(const bfloat16* a, const bfloat16* b, float* d) {
  auto* tile = reinterpret_cast<bfloat16*>(shared());
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * 16; i += 32) tile[i] = a[i];
  for (int i = lane; i < 8 * 16; i += 32) tile[16 * 16 + i] = b[i];
  __syncthreads();
  unsigned of_a[4];
  cuda::load_matrices(of_a, tile + (lane % 16) * 16 + lane / 16 * 8);
  unsigned of_b[4];
  cuda::load_matrices(of_b, tile + 16 * 16 + (lane % 8) * 16 + lane / 8 % 2 * 8);
  float sums[4] = {1, 1, 1, 1};
  cuda::mma_m16n8k16(sums, of_a, {of_b[0], of_b[1]});
  const int row = lane / 4;
  const int column = 2 * (lane % 4);
  d[row * 8 + column] = sums[0];
  d[row * 8 + column + 1] = sums[1];
  d[(row + 8) * 8 + column] = sums[2];
  d[(row + 8) * 8 + column + 1] = sums[3];
}

TEST_F(MmaTest, AddsTheProductOfTwoTiles) {
  auto* a = memory<bfloat16>(16 * 16);
  auto* b = memory<bfloat16>(8 * 16);
  auto* d = memory<float>(16 * 8);
  for (int i = 0; i < 16 * 16; ++i) a[i] = bfloat16(static_cast<float>((i * 7) % 31 - 15));
  for (int i = 0; i < 8 * 16; ++i) b[i] = bfloat16(static_cast<float>((i * 5) % 29 - 14));
  run_warp(multiply, a, b, d);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float expected = 1;
      for (int k = 0; k < 16; ++k)
        expected += static_cast<float>(a[row * 16 + k]) * static_cast<float>(b[column * 16 + k]);
      EXPECT_EQ(d[row * 8 + column], expected) << row << ", " << column;
    }
  }
}

void transpose(const std::uint16_t* from, std::uint16_t* to) {
  auto* tile = reinterpret_cast<std::uint16_t*>(shared());
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 4 * 64; i += 32) tile[i] = from[i];
  __syncthreads();
  unsigned r[4];
  cuda::load_transposed_matrices(r, tile + lane * 8);
  for (int i = 0; i < 4; ++i) {
    to[i * 64 + lane / 4 * 8 + 2 * (lane % 4)] = static_cast<std::uint16_t>(r[i]);
    to[i * 64 + lane / 4 * 8 + 2 * (lane % 4) + 1] = static_cast<std::uint16_t>(r[i] >> 16);
  }
}

TEST_F(MmaTest, TransposesMatricesAsItLoadsThem) {
  auto* from = memory<std::uint16_t>(4 * 64);
  auto* to = memory<std::uint16_t>(4 * 64);
  for (int i = 0; i < 4 * 64; ++i) from[i] = static_cast<std::uint16_t>(i);
  run_warp(transpose, from, to);
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 8; ++column)
        EXPECT_EQ(to[matrix * 64 + row * 8 + column], from[matrix * 64 + column * 8 + row]);
    }
  }
}

void copy_in_groups(const float* from, float* seen) {
  auto* tile = reinterpret_cast<float*>(shared());
  if (threadIdx.x != 0) return;
  cuda::copy_async_16(tile, from, 16);
  cuda::commit_copies();
  cuda::copy_async_16(tile + 4, from + 4, 8);
  cuda::commit_copies();
  seen[0] = tile[0];
  cuda::wait_for_copies<1>();
  seen[1] = tile[0];
  seen[2] = tile[4];
  cuda::wait_for_copies<0>();
  seen[3] = tile[4];
  seen[4] = tile[7];
}

TEST_F(MmaTest, CopiesArriveWhenTheirGroupIsWaitedFor) {
  const test::Environment races("CONCLAVE_EMULATION_RACES", "0");  // for whoever looks too early
  auto* from = memory<float>(8);
  auto* seen = memory<float>(5);
  for (int i = 0; i < 8; ++i) from[i] = static_cast<float>(i + 1);
  run_warp(copy_in_groups, from, seen);
  EXPECT_TRUE(std::isnan(seen[0]));
  EXPECT_EQ(seen[1], 1.0F);
  EXPECT_TRUE(std::isnan(seen[2]));
  EXPECT_EQ(seen[3], 5.0F);
  EXPECT_EQ(seen[4], 0.0F) << "beyond the bytes that were read";
}

void match(const int* values, unsigned* equal, unsigned* votes, int* counter) {
  equal[threadIdx.x] = __match_any_sync(0xffffffffU, values[threadIdx.x]);
  votes[threadIdx.x] = __ballot_sync(0xffffffffU, values[threadIdx.x] == 2);
  atomicAdd(counter, values[threadIdx.x]);
}

TEST_F(MmaTest, LanesFindTheirEquals) {
  auto* values = memory<int>(32);
  auto* equal = memory<unsigned>(32);
  auto* votes = memory<unsigned>(32);
  auto* counter = memory<int>(1);
  *counter = 0;
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += values[i] = i % 3;
  run_warp(match, values, equal, votes, counter);
  EXPECT_EQ(equal[2], 0x24924924U);
  EXPECT_EQ(equal[5], 0x24924924U);
  EXPECT_EQ(votes[0], 0x24924924U);
  EXPECT_EQ(*counter, sum);
}

}  // namespace
}  // namespace conclave
