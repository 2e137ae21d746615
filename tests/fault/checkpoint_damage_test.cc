// Checkpoints that were damaged, mixed up or forged: always found, never read, and no reason to ask for
// memory.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "tests/fault/largest_allocation.h"
#include "tests/fault/verdict.h"
#include "tests/support/checkpoint_case.h"
#include "trainer/checkpoint/commit.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/rewrite_checkpoint.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/verify_checkpoint.h"
#include "trainer/commands/checkpoint_command.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void write_file(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

// Two checkpoints of four ranks, two of them with one copy of the experts, and one without any tensor: more
// ranks than tensors.
class CheckpointDamage : public testing::Test {
 protected:
  CheckpointDamage() : good_(as_ranks(1)), other_(as_ranks(2)) {
    for (const auto& entry : fs::directory_iterator(good_)) files_.push_back(entry.path());
    std::ranges::sort(files_);
  }

  void expect_found(const testing::Matcher<std::string>& why) {
    std::string message;
    try {
      run_.load(good_);
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_THAT(message, AllOf(Not(IsEmpty()), why));
    EXPECT_THAT(verify_checkpoint(good_).faults, testing::Contains(why));
  }
  fs::path shard(const fs::path& checkpoint, int rank) const {
    return checkpoint / fmt::format("rank_{:05}.safetensors", rank);
  }

  test::CheckpointCase run_;
  fs::path good_;
  fs::path other_;
  std::vector<fs::path> files_;
  std::mt19937_64 random_{test::fault_seed()};

 private:
  static constexpr int kRanks = 8;

  fs::path as_ranks(std::int64_t step) {
    const SaveResult saved = run_.save(step, static_cast<float>(step));
    EXPECT_TRUE(saved.saved);
    const fs::path checkpoint = run_.run_dir() / fmt::format("resharded_{}", step);
    reshard_checkpoint(saved.path, checkpoint, {kRanks, 2});
    return checkpoint;
  }
};

TEST_F(CheckpointDamage, AFlippedBitAnywhereIsFound) {
  const std::int64_t rounds = test::fault_rounds(100);
  std::printf("seed %llu, %lld bits\n", static_cast<unsigned long long>(test::fault_seed()),
              static_cast<long long>(rounds));
  ASSERT_EQ(files_.size(), 9U);
  for (std::int64_t round = 0; round < rounds && !HasFailure(); ++round) {
    const fs::path& file = files_[random_() % files_.size()];
    std::string contents = read_file(file);
    const std::size_t bit = random_() % (8 * contents.size());
    SCOPED_TRACE(fmt::format("round {}: bit {} of {}", round, bit, file.string()));
    const std::string undamaged = contents;
    contents[bit / 8] = static_cast<char>(contents[bit / 8] ^ (1 << (bit % 8)));
    write_file(file, contents);
    EXPECT_THROW(run_.load(good_), Error);
    EXPECT_FALSE(verify_checkpoint(good_).good());
    write_file(file, undamaged);
  }
  EXPECT_NO_THROW(run_.load(good_));
  EXPECT_TRUE(run_.holds(1));
  test::verdict("a flipped bit in a header, a payload or the manifest",
                fmt::format("{} of {} found", rounds, rounds));
}

// Header padding included: a byte that no reader would miss.
TEST_F(CheckpointDamage, AFlippedBitInAFileWithoutTensorsIsFound) {
  const fs::path file = shard(good_, 7);
  ASSERT_THAT(SafetensorsReader(file).entries(), IsEmpty());
  std::string contents = read_file(file);
  contents.back() = '\t';  // whitespace for whitespace
  write_file(file, contents);
  expect_found(HasSubstr("rank_00007.safetensors is damaged"));
}

TEST_F(CheckpointDamage, TruncatedMissingAndForeignFiles) {
  for (const fs::path& file : files_) {
    const std::string contents = read_file(file);
    const auto name = HasSubstr(file.filename().string());
    for (int i = 0; i < 5; ++i) {
      write_file(file, contents.substr(0, random_() % contents.size()));
      expect_found(AllOf(name, HasSubstr("damaged")));
    }
    write_file(file, contents + '\0');
    expect_found(AllOf(name, HasSubstr("damaged")));
    fs::remove(file);
    expect_found(AllOf(name, AnyOf(HasSubstr("missing"), HasSubstr("can't be opened"))));
    fs::create_directory(file);
    expect_found(name);
    fs::remove(file);
    // Of another step: all names, shapes and sizes are the same.
    write_file(file, read_file(other_ / file.filename()));
    if (file.filename() == kManifestName) {
      expect_found(HasSubstr("of step 1"));
    } else {
      expect_found(AllOf(name, HasSubstr("of step 2 and rank"), HasSubstr("of step 1")));
    }
    write_file(file, contents);
  }
  const std::string zero = read_file(shard(good_, 0));
  write_file(shard(good_, 0), read_file(shard(good_, 1)));
  expect_found(HasSubstr("rank_00000.safetensors is damaged"));
  write_file(shard(good_, 0), zero);
  // Ranks 6 and 7 have no tensors: their files are equal but for the name of the rank.
  fs::copy_file(shard(good_, 6), shard(good_, 7), fs::copy_options::overwrite_existing);
  expect_found(AllOf(HasSubstr("rank_00007.safetensors"), HasSubstr("rank 6")));
  test::verdict("a file truncated, longer, missing, of another rank or step",
                "found and named, manifest included");
}

TEST_F(CheckpointDamage, AWholeDirectoryUnderAnotherName) {
  const fs::path moved = run_.checkpoints() / "step_000005";
  fs::copy(run_.checkpoints() / "step_000002", moved);
  EXPECT_THAT([&] { run_.load(moved); }, testing::ThrowsMessage<Error>(HasSubstr("is of step 2")));
  const ResumeResult resumed = run_.resume();
  EXPECT_EQ(resumed.path, run_.checkpoints() / "step_000002");
  EXPECT_THAT(resumed.rejected, testing::ElementsAre(HasSubstr("step_000005")));
}

TEST_F(CheckpointDamage, ForgedManifests) {
  const checkpoint::Manifest original = read_manifest(good_);
  const std::size_t bytes = read_file(good_ / kManifestName).size();
  const auto expect_refused = [&](const char* why, auto change) {
    checkpoint::Manifest forged = original;
    change(forged);
    write_manifest(good_, forged);
    expect_found(HasSubstr(why));
  };
  test::forget_allocations();
  write_file(good_ / kManifestName, "");
  expect_found(HasSubstr("damaged: its 0 bytes"));
  write_file(good_ / kManifestName, std::string(3, '\0'));
  expect_found(HasSubstr("damaged: its 3 bytes"));
  std::string garbage(bytes, ' ');
  std::ranges::generate(garbage, [&] { return static_cast<char>(random_()); });
  write_file(good_ / kManifestName, garbage);
  expect_found(HasSubstr("damaged"));

  expect_refused("checkpoint format 2", [](auto& m) { m.set_format_version(2); });
  for (const char* name :
       {"", "..", ".", "../x", "/etc/passwd", "a/b", ".hidden", "manifest.pb", "a\nb", "a b"}) {
    expect_refused("is not the name of a file", [&](auto& m) { m.mutable_files(0)->set_name(name); });
  }
  expect_refused("is not the name of a file",
                 [](auto& m) { m.mutable_files(0)->set_name(std::string("rank_00000.safetensors\0", 23)); });
  expect_refused("unprintable", [](auto& m) { m.mutable_tensors(0)->set_name("\x1b[31m"); });
  expect_refused("unprintable", [](auto& m) { m.mutable_tensors(0)->set_name(""); });
  expect_refused("can't have -1 bytes", [](auto& m) { m.mutable_files(0)->set_bytes(-1); });
  expect_refused("is damaged", [](auto& m) { m.mutable_files(0)->set_bytes(std::int64_t{1} << 62); });
  expect_refused("is impossible", [](auto& m) { m.mutable_tensors(0)->set_shape(0, -13); });
  expect_refused("is impossible", [](auto& m) { m.mutable_tensors(0)->set_shape(1, std::int64_t{1} << 61); });
  expect_refused("too small for it",
                 [](auto& m) { m.mutable_tensors(0)->set_shape(1, std::int64_t{1} << 40); });
  expect_refused("are missing", [](auto& m) { m.mutable_tensors(0)->set_shape(0, std::int64_t{1} << 50); });
  expect_refused("dimensions", [](auto& m) {
    for (int i = 0; i < 5; ++i) m.mutable_tensors(0)->add_shape(1);
  });
  expect_refused("no rows", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_row_end(-1); });
  expect_refused("is there twice",
                 [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_row_begin(INT64_MIN); });
  expect_refused("of a tensor of",
                 [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_row_end(INT64_MAX); });
  expect_refused("dtype", [](auto& m) { m.mutable_tensors(0)->set_dtype("F4"); });
  expect_refused("sharding 7",
                 [](auto& m) { m.mutable_tensors(0)->set_sharding(static_cast<checkpoint::Sharding>(7)); });
  expect_refused("can't be negative", [](auto& m) { m.mutable_progress()->set_step(-1); });
  expect_refused("are left out can't go from -1 to -2",
                 [](auto& m) { m.mutable_progress()->add_left_out_batches(-2); });
  expect_refused("are left out can't go from 7 to 7", [](auto& m) {
    for (int i = 0; i < 2; ++i) m.mutable_progress()->add_left_out_batches(7);
  });
  EXPECT_LT(test::largest_allocation(), std::size_t{1} << 20) << "bytes asked for by a manifest of " << bytes;
  test::verdict("manifest empty, garbage, newer, hostile names and sizes",
                fmt::format("refused; largest allocation {} bytes", test::largest_allocation()));
}

// Whatever was damaged in between: what a save or a prune leaves has a good one, if there was one.
TEST_F(CheckpointDamage, RetentionNeverRemovesTheOnlyGoodOne) {
  const std::int64_t rounds = test::fault_rounds(100) / 5 + 1;
  std::int64_t step = 10;
  const auto good_ones = [&] {
    return std::ranges::count_if(find_checkpoints(run_.run_dir()),
                                 [](const fs::path& path) { return verify_checkpoint(path).good(); });
  };
  for (std::int64_t round = 0; round < rounds && !HasFailure(); ++round) {
    SCOPED_TRACE(fmt::format("seed {}, round {}", test::fault_seed(), round));
    const std::int64_t keep = 1 + static_cast<std::int64_t>(random_() % 3);
    for (int i = 0; i < 3; ++i) {
      ++step;
      const std::int64_t good_before = good_ones();
      ASSERT_TRUE(run_.save(step, static_cast<float>(step), keep).saved);
      EXPECT_TRUE(verify_checkpoint(run_.checkpoints() / fmt::format("step_{:06}", step)).good());
      EXPECT_EQ(good_ones(), std::min(good_before + 1, keep)) << "damaged ones must not count";
    }
    std::int64_t good = 0;
    for (const fs::path& checkpoint : find_checkpoints(run_.run_dir())) {
      const bool damage = random_() % 2 == 0;
      if (damage) {
        const fs::path file = checkpoint / (random_() % 2 == 0 ? kManifestName : "rank_00000.safetensors");
        fs::resize_file(file, fs::file_size(file) - 1);
      }
      good += damage ? 0 : 1;
    }
    const std::size_t before = find_checkpoints(run_.run_dir()).size();
    EXPECT_EQ(prune_checkpoints(run_.run_dir(), keep, /*dry_run=*/true).good, good);
    EXPECT_EQ(find_checkpoints(run_.run_dir()).size(), before);
    prune_checkpoints(run_.run_dir(), keep, /*dry_run=*/false);
    EXPECT_EQ(good_ones(), std::min(good, keep));
    if (good == 0) {
      EXPECT_EQ(find_checkpoints(run_.run_dir()).size(), before);
    }
  }
  test::verdict("retention and prune among damaged checkpoints",
                fmt::format("{} rounds: a good one always stays", rounds));
}

}  // namespace
}  // namespace conclave
