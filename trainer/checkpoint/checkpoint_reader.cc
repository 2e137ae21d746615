#include "trainer/checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <utility>

#include "comm/base/error.h"

namespace conclave {

CheckpointReader::CheckpointReader(std::filesystem::path directory)
    : directory_(std::move(directory)), manifest_(read_manifest(directory_)) {
  for (const checkpoint::Tensor& tensor : manifest_.tensors()) tensors_[tensor.name()] = &tensor;
  for (const checkpoint::File& file : manifest_.files()) files_[file.name()] = &file;
}

const checkpoint::Tensor* CheckpointReader::find(std::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  return found == tensors_.end() ? nullptr : found->second;
}

const SafetensorsReader& CheckpointReader::file(const std::string& name) {
  std::unique_ptr<SafetensorsReader>& reader = opened_[name];
  if (reader) return *reader;
  const checkpoint::File& expected = *files_.at(name);
  const std::filesystem::path path = directory_ / name;
  CONCLAVE_CHECK(std::filesystem::exists(path), "{} is missing", path.string());
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
  CONCLAVE_CHECK(bytes == expected.bytes(), "{} is damaged: {} bytes, the manifest says {}", path.string(),
                 bytes, expected.bytes());
  auto opening = std::make_unique<SafetensorsReader>(path);
  const auto metadata = [&](const char* key) {
    const auto found = opening->metadata().find(key);
    return found == opening->metadata().end() ? std::string("?") : found->second;
  };
  CONCLAVE_CHECK(
      checksum(opening->header()) == expected.header_xxh3_64(),
      "{} is damaged or another file: the XXH3 of its header, of step {} and rank {}, is {:016x}; the "
      "manifest, of step {}, says {:016x}",
      path.string(), metadata("step"), metadata("rank"), checksum(opening->header()),
      manifest_.progress().step(), expected.header_xxh3_64());
  reader = std::move(opening);
  return *reader;
}

std::span<const std::byte> CheckpointReader::slice(const checkpoint::Tensor& tensor,
                                                   const checkpoint::Slice& slice) {
  const Range rows{slice.row_begin(), slice.row_end()};
  try {
    const GlobalTensor global = global_tensor(tensor);
    const SafetensorsReader& reader = file(slice.file());
    const auto* entry = reader.find(entry_name(tensor.name(), rows, global.rows()));
    CONCLAVE_CHECK(entry != nullptr, "{} does not have it", reader.path().string());
    CONCLAVE_CHECK_EQ(entry->shape.text(), shape_of_rows(global.shape, rows.size()).text(),
                      "shape in " + reader.path().string());
    CONCLAVE_CHECK(entry->dtype == global.dtype, "{}: stored as {}", reader.path().string(),
                   name_of(entry->dtype));
    if (!verified_.contains(&slice)) {
      const std::uint64_t found = checksum(entry->bytes);
      CONCLAVE_CHECK(found == slice.xxh3_64(),
                     "{} is damaged: the piece's XXH3 is {:016x}, the manifest says {:016x}",
                     reader.path().string(), found, slice.xxh3_64());
      verified_.insert(&slice);
    }
    return entry->bytes;
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", describe_slice(tensor.name(), rows), error.what()));
  }
}

void CheckpointReader::rows(const checkpoint::Tensor& tensor, Range rows, const RowSink& sink) {
  const std::int64_t row_bytes = global_tensor(tensor).row_bytes();
  for (const checkpoint::Slice& stored : tensor.slices()) {
    const Range shared{std::max(rows.begin, stored.row_begin()), std::min(rows.end, stored.row_end())};
    if (shared.size() <= 0) continue;
    sink(shared, slice(tensor, stored)
                     .subspan(static_cast<std::size_t>((shared.begin - stored.row_begin()) * row_bytes),
                              static_cast<std::size_t>(shared.size() * row_bytes)));
  }
}

void check_complete(const std::filesystem::path& checkpoint) {
  CheckpointReader reader(checkpoint);
  for (const checkpoint::File& file : reader.manifest().files()) reader.file(file.name());
}

}  // namespace conclave
