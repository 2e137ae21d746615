#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "comm/base/error.h"
#include "trainer/checkpoint/agreement.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/shared_error.h"

namespace conclave {
namespace {

using std::filesystem::path;

// One checkpoint being read; opens each of its files when a tensor first needs it.
class CheckpointReader {
 public:
  CheckpointReader(path directory, const checkpoint::Manifest& manifest) : directory_(std::move(directory)) {
    for (const checkpoint::Tensor& tensor : manifest.tensors()) tensors_[tensor.name()] = &tensor;
    for (const checkpoint::File& file : manifest.files()) files_[file.name()] = &file;
  }

  // Fills the rows that this rank holds from the slices that have them.
  void read(const ShardedTensor& wanted) {
    const auto found = tensors_.find(wanted.name);
    CONCLAVE_CHECK(found != tensors_.end(), "{}: there is no tensor {}", directory_.string(), wanted.name);
    const checkpoint::Tensor& stored = *found->second;
    check_same_tensor(stored, wanted);

    const bool whole = wanted.sharding == Sharding::kReplicated;
    const Range rows = whole ? Range{0, row_count(wanted.global_shape)} : wanted.local_rows;
    const auto local = bytes_of(wanted.local);
    CONCLAVE_CHECK(wanted.local.shape() == shape_of_rows(wanted.global_shape, rows.size()),
                   "{}: shape {} of the part in memory, expected {} rows of {}", wanted.name,
                   wanted.local.shape().text(), rows.size(), wanted.global_shape.text());
    if (local.empty()) return;
    const std::int64_t row_bytes = static_cast<std::int64_t>(local.size()) / rows.size();

    for (const checkpoint::Slice& slice : stored.slices()) {
      const Range shared{std::max(rows.begin, slice.row_begin()), std::min(rows.end, slice.row_end())};
      if (shared.size() <= 0) continue;
      const std::span<const std::byte> bytes = verified_bytes(wanted, slice);
      std::memcpy(static_cast<std::byte*>(wanted.local.raw()) + (shared.begin - rows.begin) * row_bytes,
                  bytes.data() + (shared.begin - slice.row_begin()) * row_bytes,
                  static_cast<std::size_t>(shared.size() * row_bytes));
    }
  }

 private:
  void check_same_tensor(const checkpoint::Tensor& stored, const ShardedTensor& wanted) const {
    std::string stored_shape;
    for (const std::int64_t extent : stored.shape()) {
      stored_shape += fmt::format("{}{}", stored_shape.empty() ? "" : ", ", extent);
    }
    CONCLAVE_CHECK_EQ("[" + stored_shape + "]", wanted.global_shape.text(),
                      directory_.string() + ": shape of " + wanted.name);
    CONCLAVE_CHECK_EQ(stored.dtype(), safetensors_dtype(wanted.local.dtype()),
                      directory_.string() + ": dtype of " + wanted.name);
  }

  const SafetensorsReader& open(const std::string& name) {
    std::unique_ptr<SafetensorsReader>& reader = opened_[name];
    if (reader) return *reader;
    const checkpoint::File& file = *files_.at(name);
    const path file_path = directory_ / name;
    CONCLAVE_CHECK(std::filesystem::exists(file_path), "{} is missing", file_path.string());
    const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(file_path));
    CONCLAVE_CHECK(bytes == file.bytes(), "{} is damaged: {} bytes, the manifest says {}", file_path.string(),
                   bytes, file.bytes());
    auto opening = std::make_unique<SafetensorsReader>(file_path);
    CONCLAVE_CHECK(checksum(opening->header()) == file.header_xxh3_64(),
                   "{} is damaged: the header's XXH3 is {:016x}, the manifest says {:016x}",
                   file_path.string(), checksum(opening->header()), file.header_xxh3_64());
    reader = std::move(opening);
    return *reader;
  }

  // The whole slice, also where only some of its rows are wanted: the checksum is over all of it.
  std::span<const std::byte> verified_bytes(const ShardedTensor& tensor, const checkpoint::Slice& slice) {
    const Range rows{slice.row_begin(), slice.row_end()};
    const std::string what = describe_slice(tensor.name, rows);
    try {
      const SafetensorsReader& reader = open(slice.file());
      const auto* entry = reader.find(entry_name(tensor.name, rows, row_count(tensor.global_shape)));
      CONCLAVE_CHECK(entry != nullptr, "{} does not have it", reader.path().string());
      CONCLAVE_CHECK_EQ(entry->shape.text(), shape_of_rows(tensor.global_shape, rows.size()).text(),
                        "shape in " + reader.path().string());
      CONCLAVE_CHECK(entry->dtype == tensor.local.dtype(), "{}: stored as {}", reader.path().string(),
                     name_of(entry->dtype));
      CONCLAVE_CHECK(checksum(entry->bytes) == slice.xxh3_64(),
                     "{} is damaged: the piece's XXH3 is {:016x}, the manifest says {:016x}",
                     reader.path().string(), checksum(entry->bytes), slice.xxh3_64());
      return entry->bytes;
    } catch (const Error& error) {
      throw Error(fmt::format("{}: {}", what, error.what()));
    }
  }

  path directory_;
  std::map<std::string, const checkpoint::Tensor*> tensors_;
  std::map<std::string, const checkpoint::File*> files_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> opened_;
};

void check_nothing_is_left_over(const path& checkpoint, const checkpoint::Manifest& manifest,
                                std::span<const ShardedTensor> tensors) {
  std::set<std::string_view> wanted;
  for (const ShardedTensor& tensor : tensors) wanted.insert(tensor.name);
  for (const checkpoint::Tensor& stored : manifest.tensors()) {
    CONCLAVE_CHECK(wanted.contains(stored.name()),
                   "{}: this run has no tensor {}: it is another model's checkpoint", checkpoint.string(),
                   stored.name());
  }
}

void read_tensors(const path& checkpoint, const checkpoint::Manifest& manifest,
                  std::span<const ShardedTensor> tensors, LoadScope scope) {
  if (scope == LoadScope::kEverything) check_nothing_is_left_over(checkpoint, manifest, tensors);
  CheckpointReader reader(checkpoint, manifest);
  for (const ShardedTensor& tensor : tensors) reader.read(tensor);
}

// Runs `action`; if it fails on any rank, the first failure, else "".
template <class Action>
std::string agreed_failure(Communicator& world, Action&& action) {
  std::string own;
  try {
    action();
  } catch (const std::exception& error) {
    own = error.what();
  }
  return first_failure(world, own);
}

std::string listed(const std::vector<std::string>& messages) {
  std::string text;
  for (const std::string& message : messages) text += "\n  " + message;
  return text;
}

// The candidates as rank 0 sees them: a network file system may show each rank something else.
std::vector<path> agreed_candidates(Communicator& world, const path& run_dir) {
  std::string lines;
  if (world.rank() == 0) {
    for (const path& candidate : find_checkpoints(run_dir)) lines += candidate.string() + "\n";
  }
  std::istringstream stream(broadcast_text(world, lines, 0));
  std::vector<path> candidates;
  for (std::string line; std::getline(stream, line);) candidates.emplace_back(line);
  return candidates;
}

}  // namespace

TrainingProgress read_progress(const path& checkpoint) { return progress_of(read_manifest(checkpoint)); }

TrainingProgress load_checkpoint(Communicator& world, const path& checkpoint,
                                 std::span<const ShardedTensor> tensors, LoadScope scope) {
  checkpoint::Manifest manifest;
  const std::string failure = agreed_failure(world, [&] {
    manifest = read_manifest(checkpoint);
    read_tensors(checkpoint, manifest, tensors, scope);
  });
  if (!failure.empty()) throw SharedError(failure);
  return progress_of(manifest);
}

ResumeResult resume_newest(Communicator& world, const path& run_dir, std::span<const ShardedTensor> tensors,
                           const std::function<void(const TrainingProgress&)>& accept) {
  ResumeResult result;
  for (const path& candidate : agreed_candidates(world, run_dir)) {
    checkpoint::Manifest manifest;
    std::string failure = agreed_failure(world, [&] { manifest = read_manifest(candidate); });
    if (failure.empty()) {
      accept(progress_of(manifest));
      failure =
          agreed_failure(world, [&] { read_tensors(candidate, manifest, tensors, LoadScope::kEverything); });
    }
    if (failure.empty()) {
      result.progress = progress_of(manifest);
      result.path = candidate;
      return result;
    }
    result.rejected.push_back(failure);
  }
  if (!result.rejected.empty()) {
    throw SharedError(fmt::format("no checkpoint of {} can be loaded; mend or remove them to start anew:{}",
                                  run_dir.string(), listed(result.rejected)));
  }
  return result;
}

}  // namespace conclave
