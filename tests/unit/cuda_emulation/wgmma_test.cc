// The emulated products by warpgroups, against plain sums.
#include "layers/cuda/wgmma.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int kRows = 64;
constexpr int kColumns = 128;
constexpr int kInner = 32;  // of which the product takes the last 16
constexpr int kThreads = 128;
constexpr unsigned kRowBytes = 128;

struct Problem {
  const bfloat16* left;   // [kRows, kInner]
  const bfloat16* right;  // [kColumns, kInner]
  float* before;          // [kRows, kColumns]: the sums while the product is under way
  float* sums;
  unsigned leading_bytes;
  unsigned stride_bytes;
};

// In bytes from the start of a tile of `vectors`, by the PTX ISA's table of canonical layouts.
int place(int vector, int k, bool lies_across) {
  const int plain =
      lies_across ? vector / 64 * kInner * 128 + k * 128 + vector % 64 * 2 : vector * 128 + k * 2;
  return plain ^ ((plain / 128 % 8) * 16);
}

template <bool kLeftAcross, bool kRightAcross>
void multiply(Problem p) {
  auto* shared = static_cast<std::byte*>(emulation::dynamic_shared_memory());
  std::byte* right_tile = shared + kRows * kRowBytes;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * kInner; i += kThreads)
    std::memcpy(shared + place(i / kInner, i % kInner, kLeftAcross), p.left + i, sizeof(bfloat16));
  for (int i = thread; i < kColumns * kInner; i += kThreads)
    std::memcpy(right_tile + place(i / kInner, i % kInner, kRightAcross), p.right + i, sizeof(bfloat16));
  cuda::publish_to_products();
  __syncthreads();
  constexpr unsigned kLast = kInner - 16;
  float d[kColumns / 8][4];
  for (auto& eight : d) {
    for (float& sum : eight) sum = 1;
  }
  const auto store = [&](float* to) {
    const int row = thread / 32 * 16 + thread % 32 / 4;
    for (int i = 0; i < kColumns / 8 * 4; ++i)
      to[(row + i % 4 / 2 * 8) * kColumns + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i / 4][i % 4];
  };
  cuda::hand_sums_to_products();
  cuda::begin_product<kLeftAcross, kRightAcross>(
      d,
      cuda::matrix_descriptor(shared + kLast * (kLeftAcross ? kRowBytes : 2), p.leading_bytes,
                              p.stride_bytes),
      cuda::matrix_descriptor(right_tile + kLast * (kRightAcross ? kRowBytes : 2), p.leading_bytes,
                              p.stride_bytes));
  cuda::commit_products();
  store(p.before);
  cuda::wait_for_products<0>();
  store(p.sums);
}

void multiply_unpublished(const float* from) {
  cuda::copy_async_16(emulation::dynamic_shared_memory(), from, 16);
  cuda::commit_copies();
  cuda::wait_for_copies<0>();
  __syncthreads();
  float d[16][4] = {};
  const std::uint64_t descriptor = cuda::matrix_descriptor(emulation::dynamic_shared_memory(), 16, 1024);
  cuda::begin_product<false, false>(d, descriptor, descriptor);
  cuda::commit_products();
  cuda::wait_for_products<0>();
}

class WgmmaTest : public testing::Test {
 protected:
  WgmmaTest() {
    problem_ = {.left = numbers(kRows * kInner, 7),
                .right = numbers(kColumns * kInner, 5),
                .before = memory<float>(kRows * kColumns),
                .sums = memory<float>(kRows * kColumns),
                .leading_bytes = kInner * kRowBytes,
                .stride_bytes = 8 * kRowBytes};
  }

  template <class T>
  T* memory(std::size_t count) {
    memory_.push_back(cuda::allocate(kGpu, count * sizeof(T)));
    return reinterpret_cast<T*>(memory_.back().get());
  }
  const bfloat16* numbers(int count, int step) {
    auto* values = memory<bfloat16>(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) values[i] = bfloat16(static_cast<float>((i * step) % 31 - 15));
    return values;
  }
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), Arguments... arguments) {
    cudaLaunchConfig_t config;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = (kRows + kColumns) * kRowBytes;
    config.stream = static_cast<cudaStream_t>(stream_.handle());
    ASSERT_EQ(cudaLaunchKernelEx(&config, kernel, arguments...), cudaSuccess);
    stream_.synchronize();
  }
  bool is_right() const {
    for (int row = 0; row < kRows; ++row) {
      for (int column = 0; column < kColumns; ++column) {
        float expected = 1;
        for (int k = kInner - 16; k < kInner; ++k) {
          expected += static_cast<float>(problem_.left[row * kInner + k]) *
                      static_cast<float>(problem_.right[column * kInner + k]);
        }
        if (problem_.sums[row * kColumns + column] != expected) return false;
      }
    }
    return true;
  }

  test::EmulatedGpus gpus_{1};
  std::vector<cuda::Memory> memory_;
  cuda::Stream stream_{0};
  Problem problem_;
};

TEST_F(WgmmaTest, AddsProductsOfFactorsThatLieEitherWay) {
  for (const auto kernel :
       {multiply<false, false>, multiply<false, true>, multiply<true, false>, multiply<true, true>}) {
    run(kernel, problem_);
    EXPECT_TRUE(is_right());
  }
}

TEST_F(WgmmaTest, SumsChangeWhenTheirGroupIsWaitedFor) {
  run(multiply<false, false>, problem_);
  for (int i = 0; i < kRows * kColumns; ++i) ASSERT_EQ(problem_.before[i], 1.0F);
}

TEST_F(WgmmaTest, WrongStridesReadOtherElements) {
  problem_.stride_bytes = 4 * kRowBytes;
  run(multiply<false, false>, problem_);
  EXPECT_FALSE(is_right());
  problem_.stride_bytes = 8 * kRowBytes;
  problem_.leading_bytes = 16;
  run(multiply<false, false>, problem_);
  EXPECT_TRUE(is_right()) << "what isn't used";
  run(multiply<false, true>, problem_);
  EXPECT_FALSE(is_right());
}

TEST_F(WgmmaTest, UnpublishedCopiesAreAnError) {
  const float* from = memory<float>(4);
  EXPECT_EXIT(
      {
        try {
          run(multiply_unpublished, from);
        } catch (const Error& error) {
          std::fputs(error.what(), stderr);
          std::_Exit(7);
        }
      },
      testing::ExitedWithCode(7), "before what it reads has been published");
}

}  // namespace
}  // namespace conclave
