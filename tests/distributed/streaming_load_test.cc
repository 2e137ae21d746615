// ranks: 2
// A large model read from Hugging Face files by two ranks: what each holds at its peak, and how fast it is.
// Runs where CONCLAVE_STREAM_BYTES says how large (2e9 takes a minute and as much disk, three times the
// memory), with files of bf16 or, where CONCLAVE_STREAM_DTYPE is fp32, of fp32:
//
//   CONCLAVE_STREAM_BYTES=2e9 launch/mpirun.sh 2 build/tests/distributed_streaming_load_test
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "layers/tensor/arena.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/temporary_directory.h"
#include "trainer/interop/element_conversion.h"
#include "trainer/interop/import_model.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using test::world;

constexpr std::int64_t kFileBytes = 500'000'000;
constexpr std::size_t kReadBytes = std::size_t{4} << 20;

std::int64_t wanted_bytes() {
  const char* value = std::getenv("CONCLAVE_STREAM_BYTES");
  return value == nullptr ? 0 : static_cast<std::int64_t>(std::atof(value));
}

DType dtype_of_files() {
  const char* value = std::getenv("CONCLAVE_STREAM_DTYPE");
  return value != nullptr && std::string_view(value) == "fp32" ? DType::kFloat32 : DType::kBFloat16;
}

// Layers of about 90 million weights, as many as make up the bytes.
config::Experiment large_experiment(std::int64_t bytes) {
  config::Experiment experiment;
  config::Model& model = *experiment.mutable_model();
  model.set_d_model(1024);
  model.set_heads(16);
  model.set_kv_heads(4);
  model.set_head_dim(64);
  model.set_vocab_size(32000);
  model.set_tie_embeddings(false);
  config::Moe& moe = *experiment.mutable_moe();
  moe.set_experts(8);
  moe.set_d_ff(3584);
  model.set_layers(
      std::max<std::int64_t>(1, bytes / 90'000'000 / static_cast<std::int64_t>(size_of(dtype_of_files()))));
  return experiment;
}

// Rank 0 writes files of values that no one needs to tell apart.
void write_files(const fs::path& directory, const config::Experiment& experiment) {
  const std::size_t element_bytes = size_of(dtype_of_files());
  std::vector<std::byte> values((std::size_t{1} << 22) * element_bytes);
  from_float(std::vector<float>(values.size() / element_bytes, 0.015625F), dtype_of_files(), values);
  std::vector<SafetensorsWriter::Entry> entries;
  int files = 0;
  const auto flush = [&] {
    SafetensorsWriter writer(directory / fmt::format("part_{:03}.safetensors", files++), entries);
    for (const SafetensorsWriter::Entry& entry : writer.entries()) {
      auto left = static_cast<std::size_t>(entry.bytes());
      while (left > 0) {
        const std::size_t now = std::min(left, values.size());
        writer.write(std::span(values).first(now));
        left -= now;
      }
    }
    writer.close_durably();
    entries.clear();
  };
  std::int64_t bytes = 0;
  for (const TensorNames& tensor : tensor_names(experiment, Architecture::kMixtral)) {
    for (const TensorPiece& piece : tensor.written()) {
      entries.push_back({piece.name, dtype_of_files(), piece.shape});
      bytes += entries.back().bytes();
      if (bytes < kFileBytes) continue;
      flush();
      bytes = 0;
    }
  }
  if (!entries.empty()) flush();
}

// The tensors that this rank owns, as a model has them.
struct Share {
  std::vector<Buffer> memory;
  std::vector<ShardedTensor> tensors;
  std::int64_t bytes = 0;
  std::int64_t largest_tensor_bytes = 0;

  explicit Share(std::span<const TensorNames> names) {
    for (const TensorNames& name : names) {
      Range rows{0, name.shape[0]};
      if (name.sharding == Sharding::kExpert) rows = partition(name.shape[0], world().size(), world().rank());
      const Shape local = name.shape.with_rows(rows.size());
      memory.emplace_back(local, DType::kFloat32);
      tensors.push_back({name.name, name.shape, name.sharding, rows, memory.back().view()});
      const std::int64_t of_tensor = local.elements() * static_cast<std::int64_t>(sizeof(float));
      bytes += of_tensor;
      largest_tensor_bytes = std::max(largest_tensor_bytes, of_tensor);
    }
  }
};

// VmHWM of /proc/self/status, after it was set back to what is resident now.
std::int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "VmHWM:") continue;
    std::int64_t kilobytes = 0;
    status >> kilobytes;
    return 1024 * kilobytes;
  }
  return 0;
}
void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// The files leave the page cache.
void forget(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
}

// Names of the files' tensors that this rank wants: those of its experts and all dense ones.
std::set<std::string> wanted_tensors(std::span<const TensorNames> names) {
  std::set<std::string> wanted;
  for (const TensorNames& tensor : names) {
    const Range rows = tensor.sharding == Sharding::kExpert
                           ? partition(tensor.shape[0], world().size(), world().rank())
                           : Range{0, tensor.shape[0]};
    for (const TensorPiece& piece : tensor.written()) {
      const std::int64_t row = piece.first_element / tensor.shape.row_elements();
      if (tensor.sharding == Sharding::kReplicated || (row >= rows.begin && row < rows.end))
        wanted.insert(piece.name);
    }
  }
  return wanted;
}

// read() of these tensors, one after the other, 4 MB at a time, into the buffer: when it is full, from its
// beginning again.
void plain_read(const fs::path& directory, const std::set<std::string>& wanted,
                std::span<std::uint8_t> buffer) {
  std::size_t filled = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const SafetensorsReader header(entry.path());
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    for (const auto& [name, tensor] : header.entries()) {
      if (!wanted.contains(name)) continue;
      off_t at = tensor.bytes.data() - header.header().data();
      for (std::size_t left = tensor.bytes.size(); left > 0;) {
        const std::size_t now = std::min(left, kReadBytes);
        if (filled + now > buffer.size()) filled = 0;
        const ssize_t got = ::pread(file, buffer.data() + filled, now, at);
        ASSERT_GT(got, 0);
        left -= static_cast<std::size_t>(got);
        filled += static_cast<std::size_t>(got);
        at += got;
      }
    }
    ::close(file);
  }
}

// Seconds until all ranks are through.
template <class Action>
double timed(const Action& action) {
  world().barrier().wait();
  const auto start = std::chrono::steady_clock::now();
  action();
  world().barrier().wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

class StreamingLoad : public testing::Test {
 protected:
  StreamingLoad() : experiment_(large_experiment(wanted_bytes())) {
    if (wanted_bytes() > 0 && world().rank() == 0) write_files(directory_.path(), experiment_);
    world().barrier().wait();
  }
  void read_into(Share& share) const {
    const ModelFiles files(directory_.path());
    read_parameters(files, names_, share.tensors);
  }

  const test::TemporaryDirectory directory_{world()};
  const config::Experiment experiment_;
  const std::vector<TensorNames> names_ = tensor_names(experiment_, Architecture::kMixtral);
};

TEST_F(StreamingLoad, HoldsNoMoreThanTheRanksOwnShare) {
  if (wanted_bytes() == 0) GTEST_SKIP() << "set CONCLAVE_STREAM_BYTES=2e9 to run it";
  reset_peak();
  const std::int64_t before = peak_bytes();
  Share share(names_);
  read_into(share);
  const std::int64_t held = peak_bytes() - before;
  // The share itself, a tenth of it, and one tensor.
  EXPECT_LE(held, share.bytes + share.bytes / 10 + share.largest_tensor_bytes);
  for (const ShardedTensor& tensor : share.tensors)
    EXPECT_EQ(ConstTensorView(tensor.local).values<float>().back(), 0.015625F) << tensor.name;
  fmt::print("rank {}: share {:.0f} MB, peak {:.0f} MB ({:+.1f} %)\n", world().rank(),
             static_cast<double>(share.bytes) / 1e6, static_cast<double>(held) / 1e6,
             100.0 * (static_cast<double>(held) / static_cast<double>(share.bytes) - 1));
}

// Rounds of each way in turn, from the disk and from the page cache, all ranks at once. All memory is there
// before.
TEST_F(StreamingLoad, Speed) {
  if (wanted_bytes() == 0) GTEST_SKIP() << "set CONCLAVE_STREAM_BYTES=2e9 to run it";
  const std::set<std::string> wanted = wanted_tensors(names_);
  Share share(names_);
  const std::int64_t file_bytes =
      share.bytes / static_cast<std::int64_t>(sizeof(float) / size_of(dtype_of_files()));
  Buffer holds_all({file_bytes}, DType::kUInt8);
  const std::span<std::uint8_t> bytes = holds_all.view().values<std::uint8_t>();
  const std::array<std::pair<const char*, std::function<void()>>, 3> ways{
      {{"weights", [&] { read_into(share); }},
       {"read() of all", [&] { plain_read(directory_.path(), wanted, bytes); }},
       {"read() over 4 MB", [&] { plain_read(directory_.path(), wanted, bytes.first(kReadBytes)); }}}};
  for (const bool from_disk : {true, false}) {
    std::array<std::vector<double>, 2> shares;  // of the speed of either read(), by round
    for (int round = 0; round < 7; ++round) {
      std::array<double, ways.size()> seconds{};
      for (std::size_t way = 0; way < ways.size(); ++way) {
        world().barrier().wait();
        if (from_disk && world().rank() == 0) forget(directory_.path());
        seconds[way] = timed(ways[way].second);
      }
      if (world().rank() != 0) continue;
      std::string line = from_disk ? "disk: " : "cache:";
      for (std::size_t way = 0; way < ways.size(); ++way) {
        line += fmt::format("  {} {:.2f} s, {:.0f} MB/s", ways[way].first, seconds[way],
                            static_cast<double>(file_bytes) / 1e6 / seconds[way]);
      }
      for (std::size_t i = 0; i < shares.size(); ++i) shares[i].push_back(seconds[i + 1] / seconds[0]);
      fmt::print("{}; shares {:.2f}, {:.2f}\n", line, shares[0].back(), shares[1].back());
    }
    if (world().rank() == 0)
      fmt::print("median shares {:.2f}, {:.2f}\n", median(shares[0]), median(shares[1]));
  }
}

}  // namespace
}  // namespace conclave
