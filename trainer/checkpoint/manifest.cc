#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "comm/base/error.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/durable_file.h"

namespace conclave {
namespace {

// The last field of the file: one byte of tag (field 15, fixed64) and eight of checksum.
constexpr std::size_t kSealBytes = 9;

void check_slices(const checkpoint::Tensor& tensor, const std::set<std::string>& files) {
  std::int64_t covered = 0;
  for (const checkpoint::Slice& slice : tensor.slices()) {
    const std::string what = describe_slice(tensor.name(), {slice.row_begin(), slice.row_end()});
    CONCLAVE_CHECK(files.contains(slice.file()), "{}: its file \"{}\" is not one of the checkpoint", what,
                   slice.file());
    CONCLAVE_CHECK(slice.row_begin() < slice.row_end(), "{}: no rows", what);
    CONCLAVE_CHECK(slice.row_begin() >= covered, "{} is there twice: rows up to {} are in another piece",
                   what, covered);
    CONCLAVE_CHECK(slice.row_begin() == covered, "{} are missing",
                   describe_slice(tensor.name(), {covered, slice.row_begin()}));
    covered = slice.row_end();
  }
  const std::int64_t rows = row_count(tensor);
  CONCLAVE_CHECK(covered >= rows, "{} are missing", describe_slice(tensor.name(), {covered, rows}));
  CONCLAVE_CHECK(covered == rows, "{}: pieces up to row {} of a tensor of {} rows", tensor.name(), covered,
                 rows);
}

}  // namespace

void write_manifest(const std::filesystem::path& checkpoint, const checkpoint::Manifest& manifest) {
  checkpoint::Manifest unsealed = manifest;
  unsealed.clear_xxh3_64();
  const std::string contents = unsealed.SerializeAsString();
  checkpoint::Manifest seal;
  seal.set_xxh3_64(checksum(std::as_bytes(std::span(contents))));
  DurableFile file(checkpoint / kManifestName);
  file.write(contents);
  file.write(seal.SerializeAsString());
  file.close_durably();
}

checkpoint::Manifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  std::ifstream stream(path, std::ios::binary);
  CONCLAVE_CHECK(stream.good(), "{}: can't be opened, so this is not a complete checkpoint", path.string());
  const std::string contents{std::istreambuf_iterator<char>(stream), {}};

  // The checksum first: damaged bytes never reach the parser of the whole.
  const std::size_t sealed_bytes = contents.size() - std::min(contents.size(), kSealBytes);
  checkpoint::Manifest seal;
  CONCLAVE_CHECK(seal.ParseFromString(contents.substr(sealed_bytes)) && seal.has_xxh3_64(),
                 "{} is damaged: its {} bytes do not end with a checksum", path.string(), contents.size());
  const std::uint64_t found = checksum(std::as_bytes(std::span(contents).first(sealed_bytes)));
  CONCLAVE_CHECK(found == seal.xxh3_64(), "{} is damaged: its XXH3 is {:016x}, expected {:016x}",
                 path.string(), found, seal.xxh3_64());

  checkpoint::Manifest manifest;
  CONCLAVE_CHECK(manifest.ParseFromString(contents), "{} is no manifest", path.string());
  CONCLAVE_CHECK(manifest.format_version() == kCheckpointFormatVersion,
                 "{}: checkpoint format {} of Conclave {}; this Conclave reads format {}", path.string(),
                 manifest.format_version(), manifest.conclave_version(), kCheckpointFormatVersion);
  try {
    check_manifest(manifest);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", path.string(), error.what()));
  }
  return manifest;
}

void check_manifest(const checkpoint::Manifest& manifest) {
  std::set<std::string> files;
  for (const checkpoint::File& file : manifest.files()) {
    const bool plain = !file.name().empty() && std::filesystem::path(file.name()).filename() == file.name();
    CONCLAVE_CHECK(plain, "\"{}\" is not the name of a file in the checkpoint's directory", file.name());
    CONCLAVE_CHECK(files.insert(file.name()).second, "file {} is listed twice", file.name());
  }
  std::set<std::string> names;
  for (const checkpoint::Tensor& tensor : manifest.tensors()) {
    CONCLAVE_CHECK(names.insert(tensor.name()).second, "tensor {} is listed twice", tensor.name());
    check_slices(tensor, files);
  }
}

std::int64_t row_count(const checkpoint::Tensor& tensor) {
  return tensor.shape_size() == 0 ? 1 : tensor.shape(0);
}

std::int64_t row_count(const Shape& shape) { return shape.rank() == 0 ? 1 : shape[0]; }

Shape shape_of_rows(const Shape& shape, std::int64_t rows) {
  return shape.rank() == 0 ? shape : shape.with_rows(rows);
}

std::string entry_name(const std::string& tensor, Range rows, std::int64_t all_rows) {
  if (rows == Range{0, all_rows}) return tensor;
  return fmt::format("{}[{}:{}]", tensor, rows.begin, rows.end);
}

std::string describe_slice(const std::string& tensor, Range rows) {
  return fmt::format("{}, rows [{}, {})", tensor, rows.begin, rows.end);
}

TrainingProgress progress_of(const checkpoint::Manifest& manifest) {
  const checkpoint::Progress& progress = manifest.progress();
  return {.step = progress.step(),
          .tokens = progress.tokens(),
          .next_sample = progress.next_sample(),
          .optimizer_updates = progress.optimizer_updates(),
          .seed = progress.seed(),
          .resolved_config = manifest.resolved_config(),
          .recent_losses = {progress.recent_losses().begin(), progress.recent_losses().end()},
          .left_out_batches = {progress.left_out_batches().begin(), progress.left_out_batches().end()}};
}

}  // namespace conclave
