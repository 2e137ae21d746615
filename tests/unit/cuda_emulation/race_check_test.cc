// Kernels that lack what orders their threads are caught, and others aren't.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"
#include "layers/cuda/wgmma.cuh"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/support/test_gpu.h"

namespace conclave {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int kThreads = 128;
constexpr int kBlocks = 2;
constexpr std::size_t kElements = kThreads * kBlocks;
constexpr std::size_t kBytes = 2 * kElements * sizeof(float);

int thread() { return static_cast<int>(threadIdx.x); }
int place() { return static_cast<int>(blockIdx.x) * kThreads + thread(); }
float* results(float* values) { return values + kElements; }  // where nobody reads
float* shared() { return static_cast<float*>(emulation::dynamic_shared_memory()); }

// What each kernel leaves out if kRaces.
template <bool kRaces>
void meet() {
  if constexpr (!kRaces) __syncthreads();
}

template <bool kRaces>
void read_neighbour(float* values) {
  __shared__ float tile[kThreads];
  tile[thread()] = values[place()];
  meet<kRaces>();
  values[place()] = tile[(thread() + 1) % kThreads];
}

template <bool kRaces>
void write_again(float* values) {
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    shared()[thread()] = values[place()];
    __syncthreads();
    sum += shared()[kThreads - 1 - thread()];
    meet<kRaces>();
  }
  values[place()] = sum;
}

// Each thread four elements.
void begin_copy(const float* values) {
  cuda::copy_async_16(shared() + 4 * thread(), values + 4 * (place() % 32), 16);
  cuda::commit_copies();
}

template <bool kRaces>
void copy_and_read(float* values) {
  begin_copy(values);
  cuda::wait_for_copies<0>();
  meet<kRaces>();
  results(values)[place()] = shared()[4 * thread() + 4 * (thread() % 2)];
}

// A barrier that doesn't wait for copies.
template <bool kRaces>
void copy_and_wait_late(float* values) {
  begin_copy(values);
  if constexpr (!kRaces) cuda::wait_for_copies<0>();
  __syncthreads();
  if (thread() % 2 == 0) results(values)[place()] = shared()[4 * (thread() + 1)];
  cuda::wait_for_copies<0>();
}

template <bool kRaces>
void copy_over_what_is_read(float* values) {
  shared()[thread()] = values[place()];
  __syncthreads();
  results(values)[place()] = shared()[kThreads - 1 - thread()];
  meet<kRaces>();
  begin_copy(values);
  cuda::wait_for_copies<0>();
}

template <bool kRaces>
void load_matrices(float* values) {
  for (int i = 0; i < 4; ++i) shared()[4 * thread() + i] = 0;
  if constexpr (!kRaces) __syncwarp();
  unsigned r[4];
  cuda::load_matrices(r, shared() + 4 * thread());
  values[place()] = static_cast<float>(r[0]);
}

// Products of a tile of zeros, which is filled again before they are waited for.
template <bool kRaces>
void fill_under_product(float* values) {
  constexpr int kOfTile = 128 * 32;
  const auto fill = [] {
    for (int i = thread(); i < kOfTile; i += kThreads) shared()[i] = 0;
    cuda::publish_to_products();
    __syncthreads();
  };
  fill();
  float d[16][4] = {};
  const std::uint64_t tile = cuda::matrix_descriptor(shared(), 16, 1024);
  cuda::hand_sums_to_products();
  cuda::begin_product<false, false>(d, tile, tile);
  cuda::commit_products();
  if constexpr (!kRaces) cuda::wait_for_products<0>();
  __syncthreads();
  fill();
  cuda::wait_for_products<0>();
  values[place()] = d[0][0];
}

template <bool kRaces>
void multiply_what_is_written(float* values) {
  shared()[thread()] = 0;
  cuda::publish_to_products();
  meet<kRaces>();
  float d[16][4] = {};
  const std::uint64_t tile = cuda::matrix_descriptor(shared(), 16, 1024);
  cuda::hand_sums_to_products();
  cuda::begin_product<false, false>(d, tile, tile);
  cuda::commit_products();
  cuda::wait_for_products<0>();
  values[place()] = d[0][0];
}

template <bool kRaces>
void read_other_lane(float* values) {
  shared()[thread()] = values[place()];
  if constexpr (!kRaces) __syncwarp();
  values[place()] = shared()[thread() ^ 1];
}

// A shuffle makes lanes wait, but doesn't order their memory.
template <bool kRaces>
void read_after_shuffle(float* values) {
  shared()[thread()] = values[place()];
  const float other = __shfl_xor_sync(~0U, values[place()], 1);
  if constexpr (!kRaces) __syncwarp();
  values[place()] = other + shared()[thread() ^ 1];
}

template <bool kRaces>
void read_other_warp(float* values) {
  shared()[thread()] = values[place()];
  __syncwarp();
  meet<kRaces>();
  values[place()] = shared()[thread() ^ 32];
}

template <bool kRaces>
void write_in_all_blocks(float* values) {
  if (thread() == 0) values[kRaces ? 0 : blockIdx.x] = 1;
}

// What an earlier block has read, and the same thread of this one as well.
template <bool kRaces>
void write_what_blocks_read(float* values) {
  const float first = values[0];
  if (thread() == 0) values[blockIdx.x + 1 == gridDim.x && kRaces ? 0 : place() + 1] = first;
}

template <bool kRaces>
void add_and_read(float* values) {
  auto* counter = reinterpret_cast<int*>(values);
  atomicAdd(counter, 1);
  if (thread() == 1 && kRaces) values[1] = values[0];
}

template <bool kRaces>
void write_neighbouring_bytes(float* values) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(values);
  auto* halves = reinterpret_cast<std::uint16_t*>(values + kElements);
  bytes[place()] = 1;
  halves[place()] = 1;
  if constexpr (kRaces) bytes[place() ^ 1] = 1;
}

struct Case {
  const char* name;
  void (*racing)(float*);
  void (*ordered)(float*);
  const char* report;  // a regular expression
};
#define CONCLAVE_CASE(kernel, report) \
  Case { #kernel, kernel < true>, kernel < false>, report }

void PrintTo(const Case& tested, std::ostream* stream) { *stream << tested.name; }

class RaceCheckTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#ifndef __SANITIZE_THREAD__
    GTEST_SKIP() << "kernels aren't instrumented beside other sanitizers";
#endif
    cuda::fill_with_zeros(stream_, values_.get(), kBytes);
  }
  void run(void (*kernel)(float*)) {
    cudaLaunchConfig_t config;
    config.gridDim = kBlocks;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = 32768;
    config.stream = static_cast<cudaStream_t>(stream_.handle());
    ASSERT_EQ(cudaLaunchKernelEx(&config, kernel, reinterpret_cast<float*>(values_.get())), cudaSuccess);
    stream_.synchronize();
  }
  void run_and_exit(void (*kernel)(float*)) {
    try {
      run(kernel);
    } catch (const Error& error) {
      std::fputs(error.what(), stderr);
      std::_Exit(7);
    }
    std::_Exit(0);
  }

  test::EmulatedGpus gpus_{1};
  cuda::Memory values_ = cuda::allocate(kGpu, kBytes);
  cuda::Stream stream_{0};
};

TEST_P(RaceCheckTest, SeesWhatIsMissing) {
  EXPECT_EXIT(run_and_exit(GetParam().racing), testing::ExitedWithCode(7), GetParam().report);
}

TEST_P(RaceCheckTest, LeavesOrderedThreadsAlone) {
  run(GetParam().ordered);
  run(GetParam().ordered);  // launches are ordered
}

TEST_P(RaceCheckTest, SaysNothingWhereNobodyAsks) {
  const test::Environment races("CONCLAVE_EMULATION_RACES", "0");
  run(GetParam().racing);
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, RaceCheckTest,
    testing::Values(
        CONCLAVE_CASE(read_neighbour,
                      "a __shared__ variable: thread 0 of block .0, 0, 0. reads it in race_check_test.cc:.*, "
                      "thread 1 of block .0, 0, 0. writes it in race_check_test.cc:"),
        CONCLAVE_CASE(write_again, "byte 508 of shared memory: thread 127 .* writes .*, thread 0 .* reads"),
        CONCLAVE_CASE(copy_and_read, "thread 1 .* reads .*, thread 2 .* writes it in mma.cuh"),
        CONCLAVE_CASE(copy_and_wait_late, "thread 0 .* reads .*, thread 1 .* writes it in mma.cuh"),
        CONCLAVE_CASE(copy_over_what_is_read, "reads .*, thread .* writes it in mma.cuh"),
        CONCLAVE_CASE(load_matrices, "writes .*, thread .* reads it in mma.cuh"),
        CONCLAVE_CASE(fill_under_product, "writes .*, thread .* reads it in wgmma.cuh"),
        CONCLAVE_CASE(multiply_what_is_written, "reads it in wgmma.cuh.*, thread 1 .* writes"),
        CONCLAVE_CASE(read_other_lane, "thread 0 .* reads .*, thread 1 .* writes"),
        CONCLAVE_CASE(read_after_shuffle, "writes .*, thread .* reads"),
        CONCLAVE_CASE(read_other_warp, "thread 31 .* reads .*, thread 63 .* writes"),
        CONCLAVE_CASE(
            write_in_all_blocks,
            "byte 0 of an allocation: thread 0 of block .0, 0, 0. writes .*, thread 0 of block .1, 0, "
            "0. writes"),
        CONCLAVE_CASE(write_what_blocks_read, "and others. of block .1, 0, 0. reads .*, thread 0 .* writes"),
        CONCLAVE_CASE(add_and_read, "adds to .*, thread 1 .* reads"),
        CONCLAVE_CASE(write_neighbouring_bytes, "byte 1 of an allocation: .* writes .*, thread .* writes")),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace conclave
