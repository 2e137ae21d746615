#include "trainer/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "comm/base/error.h"
#include "comm/self/self_communicator.h"
#include "tests/support/checkpoint_tensors.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/commands/checkpoint_command.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void write_file(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

class CheckpointTest : public testing::Test {
 protected:
  static constexpr std::int64_t kExperts = 5;

  CheckpointTest() : world_(make_self_communicator()), grid_(*world_, 1), tensors_(kExperts, {0, kExperts}) {}

  const fs::path& run_dir() const { return directory_.path(); }
  static TrainingProgress progress_at(std::int64_t step) {
    return {step, step * 100, step * 4, step - 1, 0xFFFFFFFFFFFFFFFFULL, "run:\n  name: test\n"};
  }
  // Saves with every element telling the step.
  SaveResult save(std::int64_t step, std::int64_t keep = 10) {
    tensors_.fill(static_cast<float>(step));
    return save_checkpoint(grid_, run_dir(), progress_at(step), tensors_.tensors(), keep);
  }
  TrainingProgress load(const fs::path& path) {
    tensors_.clear();
    return load_checkpoint(*world_, path, tensors_.tensors());
  }
  ResumeResult resume() {
    tensors_.clear();
    return resume_newest(*world_, run_dir(), tensors_.tensors(), [](const TrainingProgress&) {});
  }
  // Changes the manifest of a checkpoint and seals it again.
  template <class Change>
  void change_manifest(const fs::path& checkpoint, Change&& change) {
    checkpoint::Manifest manifest = read_manifest(checkpoint);
    change(manifest);
    write_manifest(checkpoint, manifest);
  }
  void expect_load_fails(const fs::path& checkpoint, const testing::Matcher<std::string>& why) {
    EXPECT_THAT([&] { load(checkpoint); }, ThrowsMessage<Error>(why));
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<Communicator> world_;
  ProcessGrid grid_;
  test::CheckpointTensors tensors_;
};

TEST_F(CheckpointTest, RoundTrip) {
  const SaveResult result = save(500);
  ASSERT_TRUE(result.saved) << result.message;
  EXPECT_EQ(result.message, "");
  EXPECT_EQ(result.path, run_dir() / "checkpoints" / "step_000500");
  EXPECT_EQ(result.bytes, static_cast<std::int64_t>(fs::file_size(result.path / "rank_00000.safetensors")));
  EXPECT_EQ(load(result.path), progress_at(500));
  EXPECT_TRUE(tensors_.is_filled(500));
  EXPECT_EQ(read_progress(result.path), progress_at(500));
}

TEST_F(CheckpointTest, EveryFlippedByteIsFound) {
  const fs::path checkpoint = save(1).path;
  for (const char* name : {"manifest.pb", "rank_00000.safetensors"}) {
    const std::string good = read_file(checkpoint / name);
    std::fstream stream(checkpoint / name, std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](std::size_t position, char byte) {
      stream.seekp(static_cast<std::streamoff>(position));
      stream.put(byte).flush();
    };
    for (std::size_t i = 0; i < good.size(); ++i) {
      put(i, static_cast<char>(good[i] ^ 0x10));
      EXPECT_THROW(load(checkpoint), Error) << name << " byte " << i;
      put(i, good[i]);
    }
  }
  EXPECT_NO_THROW(load(checkpoint));
}

TEST_F(CheckpointTest, DamageNamesTensorAndFile) {
  const fs::path checkpoint = save(1).path;
  const fs::path file = checkpoint / "rank_00000.safetensors";
  const std::string good = read_file(file);
  const SafetensorsReader reader(file);
  const auto offset =
      static_cast<std::size_t>(reader.find("layers.0.norm")->bytes.data() - reader.header().data());

  std::string bad = good;
  bad[offset] ^= 1;
  write_file(file, bad);
  expect_load_fails(checkpoint,
                    AllOf(HasSubstr("layers.0.norm"), HasSubstr("rank_00000"), HasSubstr("XXH3")));
  write_file(file, good.substr(0, good.size() - 1));
  expect_load_fails(checkpoint, AllOf(HasSubstr("rank_00000"), HasSubstr("the manifest says")));
  fs::remove(file);
  expect_load_fails(checkpoint, AllOf(HasSubstr("rank_00000"), HasSubstr("missing")));
}

TEST_F(CheckpointTest, MissingAndDuplicatedPiecesAreNamed) {
  const fs::path checkpoint = save(1).path;
  const checkpoint::Manifest good = read_manifest(checkpoint);
  const auto expect = [&](auto change, const std::string& why) {
    checkpoint::Manifest bad = good;
    change(bad);
    write_manifest(checkpoint, bad);
    expect_load_fails(checkpoint, HasSubstr(why));
  };
  constexpr int kDown = 3;
  ASSERT_EQ(good.tensors(kDown).name(), "layers.0.moe.experts.down");
  expect([](auto& m) { m.mutable_tensors(kDown)->clear_slices(); },
         "layers.0.moe.experts.down, rows [0, 5) are missing");
  expect([](auto& m) { m.mutable_tensors(kDown)->mutable_slices(0)->set_row_begin(2); },
         "rows [0, 2) are missing");
  expect([](auto& m) { m.mutable_tensors(kDown)->mutable_slices(0)->set_row_end(4); },
         "rows [4, 5) are missing");
  expect([](auto& m) { m.mutable_tensors(kDown)->mutable_slices(0)->set_row_end(6); }, "tensor of 5 rows");
  expect([](auto& m) { *m.mutable_tensors(kDown)->add_slices() = m.tensors(kDown).slices(0); },
         "is there twice");
  expect([](auto& m) { *m.add_tensors() = m.tensors(kDown); }, "layers.0.moe.experts.down is listed twice");
  expect([](auto& m) { m.mutable_tensors(kDown)->mutable_slices(0)->set_file("other"); },
         "not one of the checkpoint");
  expect([](auto& m) { m.mutable_files(0)->set_name("../x"); }, "not the name of a file");
  expect([](auto& m) { m.mutable_tensors()->DeleteSubrange(kDown, 1); },
         "no tensor layers.0.moe.experts.down");
  expect([](auto& m) { m.mutable_tensors(kDown)->set_dtype("BF16"); }, "dtype of layers.0.moe.experts.down");
  expect([](auto& m) { m.mutable_tensors(0)->set_shape(1, 6); }, "shape of embedding: found [13, 6]");
  expect([](auto& m) { m.set_format_version(99); }, "format 99");
}

TEST_F(CheckpointTest, TensorsOfAnotherModelAreRefusedUnlessOnlySomeAreWanted) {
  const fs::path checkpoint = save(1).path;
  const std::span<const ShardedTensor> some = std::span(tensors_.tensors()).first(2);
  EXPECT_THAT([&] { load_checkpoint(*world_, checkpoint, some); },
              ThrowsMessage<Error>(HasSubstr("temperature")));
  EXPECT_NO_THROW(load_checkpoint(*world_, checkpoint, some, LoadScope::kNamedOnly));
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  for (const std::int64_t step : {1, 2, 3, 1000000}) ASSERT_TRUE(save(step, 2).saved);
  EXPECT_THAT(find_checkpoints(run_dir()),
              ElementsAre(run_dir() / "checkpoints/step_1000000", run_dir() / "checkpoints/step_000003"));
}

// After falling back to an older checkpoint, a later (damaged) one must not push out what is saved now.
TEST_F(CheckpointTest, LaterStepsAreNotCounted) {
  save(10);
  save(30);
  ASSERT_TRUE(save(20, 1).saved);
  EXPECT_THAT(find_checkpoints(run_dir()),
              ElementsAre(run_dir() / "checkpoints/step_000030", run_dir() / "checkpoints/step_000020"));
}

TEST_F(CheckpointTest, SavingAgainReplaces) {
  const fs::path checkpoint = save(7).path;
  write_file(checkpoint / "rank_00009.safetensors", "of a larger world");
  tensors_.fill(123);
  ASSERT_TRUE(save_checkpoint(grid_, run_dir(), progress_at(7), tensors_.tensors(), 2).saved);
  load(checkpoint);
  EXPECT_TRUE(tensors_.is_filled(123));
  EXPECT_FALSE(fs::exists(checkpoint / "rank_00009.safetensors"));
  EXPECT_EQ(std::distance(fs::directory_iterator(run_dir() / "checkpoints"), {}), 1);
}

TEST_F(CheckpointTest, UnfinishedSavesAreIgnoredAndCleanedUp) {
  const fs::path checkpoint = save(1).path;
  const fs::path leftover = run_dir() / "checkpoints/step_000002.tmp";
  fs::copy(checkpoint, leftover);
  fs::create_directories(run_dir() / "checkpoints/step_000003");  // no manifest
  fs::create_directories(run_dir() / "checkpoints/step_x");
  write_file(run_dir() / "checkpoints/notes.tmp", "mine");
  EXPECT_THAT(find_checkpoints(run_dir()), ElementsAre(checkpoint));
  EXPECT_EQ(find_newest_checkpoint(run_dir()), checkpoint);
  ASSERT_TRUE(save(4).saved);
  EXPECT_FALSE(fs::exists(leftover));
  EXPECT_TRUE(fs::exists(run_dir() / "checkpoints/notes.tmp"));
}

TEST_F(CheckpointTest, UnwritablePlaceIsReported) {
  write_file(run_dir() / "file", "");
  const SaveResult result = save_checkpoint(grid_, run_dir() / "file", progress_at(1), tensors_.tensors(), 2);
  EXPECT_FALSE(result.saved);
  EXPECT_THAT(result.message, HasSubstr((run_dir() / "file").string()));
}

TEST_F(CheckpointTest, ResumeTakesTheNewestThatIsWhole) {
  EXPECT_FALSE(resume().progress.has_value());  // nothing there
  for (const std::int64_t step : {1, 2, 3, 4}) save(step);
  const fs::path root = run_dir() / "checkpoints";
  write_file(root / "step_000004/manifest.pb", "");
  fs::resize_file(root / "step_000003/rank_00000.safetensors", 100);
  const ResumeResult result = resume();
  EXPECT_EQ(result.progress, progress_at(2));
  EXPECT_EQ(result.path, root / "step_000002");
  EXPECT_TRUE(tensors_.is_filled(2));
  EXPECT_THAT(result.rejected, ElementsAre(HasSubstr("step_000004"), HasSubstr("step_000003")));
  EXPECT_EQ(find_newest_checkpoint(run_dir()), root / "step_000003");  // its manifest is whole

  fs::remove(root / "step_000002/rank_00000.safetensors");
  fs::remove(root / "step_000001/rank_00000.safetensors");
  EXPECT_THAT([&] { resume(); },
              ThrowsMessage<Error>(AllOf(HasSubstr("step_000004"), HasSubstr("step_000001"))));
}

TEST_F(CheckpointTest, ResumeAsksBeforeItTouchesTensors) {
  save(1);
  tensors_.clear();
  const auto refuse = [&](const TrainingProgress& progress) {
    EXPECT_EQ(progress, progress_at(1));
    throw ConfigError("differs");
  };
  EXPECT_THROW(resume_newest(*world_, run_dir(), tensors_.tensors(), refuse), ConfigError);
  EXPECT_EQ(tensors_.tensors()[0].local.data<float>()[0], -1.0F);
}

TEST_F(CheckpointTest, InspectDescribesARunADirectoryOrACheckpoint) {
  save(3);
  const fs::path checkpoint = save(1500).path;
  const std::string text = describe_checkpoint(run_dir());
  EXPECT_THAT(text, AllOf(HasSubstr("1,500"), HasSubstr("150,000"), HasSubstr("layers.0.moe.experts.down"),
                          HasSubstr("[5, 3, 2]"), HasSubstr("F32"), HasSubstr("rank_00000.safetensors"),
                          HasSubstr("1 ranks, expert_parallel_size 1"), HasSubstr("name: test")));
  EXPECT_EQ(describe_checkpoint(run_dir() / "checkpoints"), text);
  EXPECT_EQ(describe_checkpoint(checkpoint), text);
  EXPECT_THAT([&] { describe_checkpoint(run_dir() / "nothing"); },
              ThrowsMessage<Error>(HasSubstr("no checkpoint")));
}

TEST_F(CheckpointTest, CommandSelectsItsAction) {
  const fs::path checkpoint = save(3).path;
  CLI::App app;
  std::function<int()> selected;
  add_checkpoint_command(app, selected);
  app.parse("checkpoint inspect \"" + checkpoint.string() + "\"");
  ASSERT_TRUE(selected);
  testing::internal::CaptureStdout();
  EXPECT_EQ(selected(), 0);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), describe_checkpoint(checkpoint));
}

}  // namespace
}  // namespace conclave
