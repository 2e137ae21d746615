// ranks: 1 2 4
#include "trainer/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/base/error.h"
#include "comm/self/self_communicator.h"
#include "tests/support/checkpoint_tensors.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint/checkpoint_saver.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/rewrite_checkpoint.h"
#include "trainer/checkpoint/safetensors.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using test::world;
using testing::AllOf;
using testing::HasSubstr;

// Uneven over 2 and over 4 ranks.
constexpr std::int64_t kExperts = 5;
const TrainingProgress kProgress{9, 900, 36, 8, 42, "a: 1\n"};

// True on every rank if `condition` is true on every rank.
bool everywhere(bool condition) {
  std::int64_t holds = condition ? 1 : 0;
  world().all_reduce(BufferView{&holds, 1, DType::kInt64, {}}, ReduceOp::kMin).wait();
  return holds == 1;
}

test::CheckpointTensors tensors_of(const ProcessGrid& grid, std::int64_t experts = kExperts) {
  return test::CheckpointTensors(experts, grid.local_experts(experts));
}

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

SaveResult save(const ProcessGrid& grid, const fs::path& run_dir, float offset = 0) {
  test::CheckpointTensors tensors = tensors_of(grid);
  tensors.fill(offset);
  return save_checkpoint(grid, run_dir, kProgress, tensors.tensors(), 2);
}

// A world size writes, every layout of every smaller or equal world reads the same bits.
TEST(DistributedCheckpoint, AnyLayoutReadsWhatAnyLayoutWrote) {
  for (const int writing_size : test::expert_parallel_sizes()) {
    const test::TemporaryDirectory directory(world());
    const ProcessGrid writing(world(), writing_size);
    const SaveResult result = save(writing, directory.path(), 0.5F);
    ASSERT_TRUE(result.saved) << result.message;

    for (const int reading_size : test::expert_parallel_sizes()) {
      const ProcessGrid reading(world(), reading_size);
      test::CheckpointTensors tensors = tensors_of(reading);
      tensors.clear();
      EXPECT_EQ(load_checkpoint(world(), result.path, tensors.tensors()), kProgress);
      EXPECT_TRUE(everywhere(tensors.is_filled(0.5F))) << writing_size << " -> " << reading_size;
    }

    // Each rank alone, as `generate` would; and the lower half of the ranks with the upper half beside it.
    const auto alone = make_self_communicator();
    const auto half = world().split(2 * world().rank() / world().size(), world().rank(), "half");
    for (Communicator* smaller : {alone.get(), half.get()}) {
      const ProcessGrid grid(*smaller, smaller->size());
      test::CheckpointTensors tensors = tensors_of(grid);
      tensors.clear();
      load_checkpoint(*smaller, result.path, tensors.tensors());
      EXPECT_TRUE(everywhere(tensors.is_filled(0.5F)));
    }
  }
}

// More ranks than experts: a rank may have none.
TEST(DistributedCheckpoint, RanksWithoutExperts) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), world().size());
  for (const std::int64_t experts : {1, 3}) {
    test::CheckpointTensors tensors = tensors_of(grid, experts);
    tensors.fill(2);
    const SaveResult result = save_checkpoint(grid, directory.path(), kProgress, tensors.tensors(), 1);
    ASSERT_TRUE(result.saved) << result.message;
    tensors.clear();
    load_checkpoint(world(), result.path, tensors.tensors());
    EXPECT_TRUE(everywhere(tensors.is_filled(2)));
  }
}

TEST(DistributedCheckpoint, EveryByteIsWrittenOnceAndTheRanksShareThem) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), 1);
  // As many equal tensors as ranks: one each.
  std::vector<float> values(1000, 1.0F);
  std::vector<ShardedTensor> tensors;
  for (int i = 0; i < 2 * world().size(); ++i) {
    tensors.push_back({fmt::format("t{}", i),
                       {1000},
                       Sharding::kReplicated,
                       {0, 1000},
                       tensor_view(std::span(values), {1000})});
  }
  const SaveResult result = save_checkpoint(grid, directory.path(), kProgress, tensors, 1);
  ASSERT_TRUE(result.saved) << result.message;
  const checkpoint::Manifest manifest = read_manifest(result.path);
  ASSERT_EQ(manifest.files_size(), world().size());
  EXPECT_EQ(manifest.layout().world_size(), world().size());
  std::map<std::string, int> tensors_of_file;
  for (const auto& tensor : manifest.tensors()) {
    ASSERT_EQ(tensor.slices_size(), 1);
    ++tensors_of_file[tensor.slices(0).file()];
  }
  for (const auto& file : manifest.files()) EXPECT_EQ(tensors_of_file[file.name()], 2) << file.name();
}

TEST(DistributedCheckpoint, ExpertPiecesCarryTheirRows) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), world().size());
  const SaveResult result = save(grid, directory.path());
  const int last = world().size() - 1;
  const Range rows = grid.experts_of(kExperts, last);
  const std::string expected =
      last == 0 ? "layers.0.moe.experts.down" : fmt::format("layers.0.moe.experts.down[{}:5]", rows.begin);
  const SafetensorsReader reader(result.path / fmt::format("rank_{:05}.safetensors", last));
  const auto* entry = reader.find(expected);
  ASSERT_NE(entry, nullptr) << expected;
  EXPECT_EQ(entry->shape, (Shape{rows.size(), 3, 2}));
}

// One process writes what many ranks would have, to the last byte.
TEST(DistributedCheckpoint, ReshardingWritesWhatTheRanksWrite) {
  for (const int size : test::expert_parallel_sizes()) {
    const test::TemporaryDirectory directory(world());
    const ProcessGrid grid(world(), size);
    const SaveResult result = save(grid, directory.path(), 0.25F);
    ASSERT_TRUE(result.saved) << result.message;
    if (world().rank() == 0) {
      reshard_checkpoint(result.path, directory.path() / "one", {1, 1});
      reshard_checkpoint(directory.path() / "one", directory.path() / "many", {world().size(), size});
      for (const auto& entry : fs::directory_iterator(result.path)) {
        EXPECT_EQ(read_file(directory.path() / "many" / entry.path().filename()), read_file(entry.path()))
            << entry.path();
      }
    }
  }
}

// Beside training: what is saved are the values of begin(), whatever follows; and a failure of one rank is a
// result.
TEST(DistributedCheckpoint, SavingBesideTraining) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), world().size());
  CheckpointSaver saver(grid, directory.path(), 2, CheckpointSaver::Mode::kBackground);
  test::CheckpointTensors tensors = tensors_of(grid);
  for (const std::int64_t step : {1, 2, 3}) {
    tensors.fill(static_cast<float>(step));
    saver.begin({step, 0, 0, 0, 1, ""}, tensors.tensors());
    tensors.clear();
    std::optional<SaveResult> result;
    while (!(result = saver.poll())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(result->saved) << result->message;
    load_checkpoint(world(), result->path, tensors.tensors());
    EXPECT_TRUE(everywhere(tensors.is_filled(static_cast<float>(step))));
  }
  if (world().rank() == 0) {
    EXPECT_EQ(find_checkpoints(directory.path()).size(), 2U);
    fs::create_directory(directory.path() / "checkpoints/step_000004.tmp");
  }
  world().barrier().wait();
  tensors.fill(4);
  saver.begin({4, 0, 0, 0, 1, ""}, tensors.tensors());
  EXPECT_TRUE(saver.finish()->saved);
}

// The last rank may write no file larger than 16 bytes: as if its disk were full.
TEST(DistributedCheckpoint, AFailureOfOneRankIsAResultOnAll) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), 1);
  const int last = world().size() - 1;
  rlimit previous{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &previous), 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  if (world().rank() == last) {
    const rlimit tight{16, previous.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  }
  const SaveResult failed = save(grid, directory.path());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &previous), 0);
  std::signal(SIGXFSZ, handler);

  EXPECT_FALSE(failed.saved);
  EXPECT_THAT(failed.message, HasSubstr("File too large"));
  if (world().size() > 1) {
    EXPECT_THAT(failed.message, HasSubstr(fmt::format("rank {}: ", last)));
  }
  world().barrier().wait();
  EXPECT_TRUE(fs::is_empty(directory.path() / "checkpoints"));
  world().barrier().wait();
  EXPECT_TRUE(save(grid, directory.path()).saved);  // the next one works
}

TEST(DistributedCheckpoint, DamageSeenByOneRankIsAnErrorOnAll) {
  const test::TemporaryDirectory directory(world());
  const ProcessGrid grid(world(), world().size());
  const SaveResult older = save(grid, directory.path(), 1);
  test::CheckpointTensors tensors = tensors_of(grid);
  tensors.fill(2);
  TrainingProgress later = kProgress;
  later.step = 10;
  const SaveResult newer = save_checkpoint(grid, directory.path(), later, tensors.tensors(), 2);
  ASSERT_TRUE(older.saved && newer.saved);

  // A byte of the last rank's experts (the end of its file).
  if (world().rank() == 0) {
    const fs::path file = newer.path / fmt::format("rank_{:05}.safetensors", world().size() - 1);
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(-1, std::ios::end);
    stream.put('x');
  }
  world().barrier().wait();
  EXPECT_THAT([&] { load_checkpoint(world(), newer.path, tensors.tensors()); },
              testing::ThrowsMessage<Error>(HasSubstr("is damaged")));

  const ResumeResult resumed =
      resume_newest(world(), directory.path(), tensors.tensors(), [](const auto&) {});
  EXPECT_EQ(resumed.path, older.path);
  EXPECT_EQ(resumed.progress, kProgress);
  EXPECT_THAT(resumed.rejected, testing::ElementsAre(HasSubstr("is damaged")));
  EXPECT_TRUE(everywhere(tensors.is_filled(1)));
}

}  // namespace
}  // namespace conclave
