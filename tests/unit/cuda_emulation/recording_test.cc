// Work of a stream that is recorded once and enqueued again: comm/cuda/recording.h.
#include "comm/cuda/recording.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/stream.h"
#include "layers/cuda/staging.h"
#include "tests/support/test_gpu.h"

namespace conclave::cuda {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

class RecordingTest : public testing::Test {
 protected:
  // n numbers in the memory of the GPU.
  std::int64_t* numbers(std::size_t n) {
    memory_.push_back(allocate(kGpu, n * sizeof(std::int64_t)));
    return reinterpret_cast<std::int64_t*>(memory_.back().get());
  }
  void copy_number(std::int64_t* to, const std::int64_t* from) { copy(stream_, to, from, sizeof *to); }

  test::EmulatedGpus gpus_{1};
  std::vector<Memory> memory_;
  Stream stream_{0};
  Recording recording_{stream_};
};

TEST_F(RecordingTest, WorkIsDoneWhenItIsRecordedAndInEveryReplay) {
  std::int64_t* from = numbers(1);
  std::int64_t* to = numbers(1);
  *from = 1;
  int runs = 0;
  recording_.record([&] {
    ++runs;
    copy_number(to, from);
  });
  stream_.synchronize();
  EXPECT_EQ(*to, 1);
  *from = 2;
  recording_.replay();
  stream_.synchronize();
  EXPECT_EQ(*to, 2);
  EXPECT_EQ(runs, 1);
}

TEST_F(RecordingTest, WhatIsOutsideOfGraphsHappensAtItsPlaceEachTime) {
  std::int64_t* cells = numbers(3);
  cells[0] = 5;
  std::vector<std::int64_t> seen;
  recording_.record([&] {
    copy_number(cells + 1, cells);
    stream_.outside_graphs([&] {
      stream_.synchronize();
      seen.push_back(cells[1]);
      cells[1] *= 10;
    });
    copy_number(cells + 2, cells + 1);
  });
  cells[0] = 6;
  stream_.synchronize();
  EXPECT_EQ(cells[2], 50);
  recording_.replay();
  stream_.synchronize();
  EXPECT_EQ(cells[2], 60);
  EXPECT_EQ(seen, (std::vector<std::int64_t>{5, 6}));
}

TEST_F(RecordingTest, OutsideOfARecordingActionsRunOnce) {
  int runs = 0;
  stream_.outside_graphs([&] { ++runs; });
  EXPECT_EQ(runs, 1);
  recording_.replay();  // of nothing
  EXPECT_EQ(runs, 1);
}

TEST_F(RecordingTest, UploadsAreThoseOfTheRecordingAgain) {
  Staging staging(stream_);
  std::int64_t* cell = numbers(1);
  std::int64_t value = 3;
  recording_.record([&] { staging.upload(cell, &value, sizeof value); });
  value = 4;
  staging.upload(cell, &value, sizeof value);
  stream_.synchronize();
  EXPECT_EQ(*cell, 4);
  recording_.replay();
  stream_.synchronize();
  EXPECT_EQ(*cell, 3);
}

TEST_F(RecordingTest, WaitingForTheStreamIsAnErrorAndEndsTheRecording) {
  std::int64_t* cells = numbers(2);
  cells[0] = 7;
  cells[1] = 0;
  EXPECT_THROW(recording_.record([&] {
    copy_number(cells + 1, cells);
    stream_.synchronize();
  }),
               Error);
  EXPECT_EQ(stream_.recording(), nullptr);
  stream_.synchronize();
  EXPECT_EQ(cells[1], 0) << "what was recorded so far is forgotten";
  recording_.replay();
  copy_number(cells + 1, cells);
  stream_.synchronize();
  EXPECT_EQ(cells[1], 7) << "the stream works as before";
}

TEST_F(RecordingTest, AnActionThatFailsEndsTheRecording) {
  EXPECT_THROW(
      recording_.record([&] { stream_.outside_graphs([] { throw std::runtime_error("no peer"); }); }),
      std::runtime_error);
  EXPECT_EQ(stream_.recording(), nullptr);
  recording_.record([] {});
  stream_.synchronize();
}

}  // namespace
}  // namespace conclave::cuda
